# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import cdpruner as slow
from reference import golden
from tokenprune_plugins.relevance import RelevanceScorer, mean_cosine, scaled

import tokenprune


def tokens_of(patches, texts):
    signals = {"clip_patch_embeds": patches, "clip_text_embeds": texts}
    return tokenprune.VisualTokens(torch.zeros(len(patches), 3), signals)


def test_golden_scores():
    vectors = golden.load("cdpruner_n64_T24")
    raw = -mean_cosine(vectors["image_embeds"], vectors["text_embeds"])
    torch.testing.assert_close(scaled(raw).double(), vectors["relevance_f64"], rtol=1e-5, atol=1e-6)


def test_by_hand():
    # cosines to the text 1, 0, -1: minus them scaled to (0 + 1e-6) / 2, (1 + 1e-6) / 2, (2 + 1e-6) / 2
    patches = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    scores = RelevanceScorer().score(tokens_of(patches, torch.tensor([[5.0, 0.0]])))
    assert scores.tolist() == pytest.approx([5e-7, 0.5, 1.0], rel=1e-5)


def test_segments_of_a_long_question_are_averaged():
    generator = torch.Generator().manual_seed(0)
    patches, texts = torch.randn(30, 8, generator=generator), torch.randn(3, 8, generator=generator)
    wanted = torch.from_numpy(slow.relevance(patches, texts)).float()
    torch.testing.assert_close(
        RelevanceScorer().score(tokens_of(patches, texts)), wanted, rtol=1e-4, atol=1e-6
    )


def test_the_variant_without_clip_likes_tokens_near_the_text():
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    tokens = tokenprune.VisualTokens(
        torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), {"text_embeds": text}
    )
    scorer = tokenprune.method("cdpruner", source="language").scorer
    assert scorer.needs == {"text_embeds"}
    assert scorer.score(tokens).tolist() == pytest.approx([5e-7, 0.5, 1.0], rel=1e-5)


def test_without_a_difference_all_are_equally_relevant():
    assert RelevanceScorer().score(tokens_of(torch.ones(4, 2), torch.ones(1, 2))).tolist() == [1.0] * 4
    assert RelevanceScorer().score(tokens_of(torch.ones(4, 2), torch.ones(0, 2))).tolist() == [1.0] * 4


def test_an_unknown_source_is_refused():
    with pytest.raises(tokenprune.OptionError, match="'clip' or 'language', got 'siglip'"):
        tokenprune.scorer("relevance", source="siglip")
