# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden

import tokenprune


def test_golden_picks_and_order():
    vectors = golden.load("cdpruner_n64_T24")
    signals = {
        "clip_patch_embeds": vectors["image_embeds"][0],
        "clip_text_embeds": vectors["text_embeds"],
    }
    tokens = tokenprune.VisualTokens(vectors["projected"][0], signals)
    chosen = tokenprune.method("cdpruner").select(tokens, keep=int(vectors["T"]))
    assert chosen.order.tolist() == vectors["order"][0].tolist() == vectors["order_f64"][0].tolist()
    assert chosen.indices.tolist() == vectors["mask"][0].nonzero().squeeze(-1).tolist()


def test_is_relevance_and_dpp():
    method = tokenprune.method("cdpruner").resolved()
    assert (method.scorer.name, method.selector.name, method.reducer) == ("relevance", "dpp", None)
    assert (method.scope, method.newlines) == ("tile", "drop")


def test_the_variant_without_clip_needs_the_text_alone():
    generator = torch.Generator().manual_seed(0)
    tokens = tokenprune.VisualTokens(
        torch.randn(40, 16, generator=generator), {"text_embeds": torch.randn(7, 16, generator=generator)}
    )
    chosen = tokenprune.method("cdpruner", source="language").select(tokens, keep=10)
    assert chosen.order[0] == chosen.scores.argmax()
    assert len(set(chosen.order.tolist())) == 10


def test_relevance_is_scaled_over_all_tiles_and_choice_made_within_each():
    generator = torch.Generator().manual_seed(0)
    features, patches = torch.randn(24, 16, generator=generator), torch.randn(24, 8, generator=generator)
    text = torch.randn(1, 8, generator=generator)
    layout = tokenprune.Layout((1, 1, 24), tiles=torch.arange(24) // 8, full_tiles=3)
    signals = {"clip_patch_embeds": patches, "clip_text_embeds": text}
    chosen = tokenprune.method("cdpruner").select(tokenprune.VisualTokens(features, signals, layout), keep=12)
    scores = tokenprune.scorer("relevance").score(tokenprune.VisualTokens(features, signals))
    assert torch.equal(chosen.scores, scores)
    for tile in range(3):
        own = slice(8 * tile, 8 * tile + 8)
        alone = tokenprune.selector("dpp").select(tokenprune.VisualTokens(features[own]), scores[own], 4)
        assert chosen.order[4 * tile : 4 * tile + 4].tolist() == (8 * tile + alone.order).tolist()


def test_a_stack_is_refused_where_images_are_taken_one_at_a_time():
    tokens = tokenprune.VisualTokens(torch.zeros(2, 6, 4), {"text_embeds": torch.zeros(2, 3, 4)})
    with pytest.raises(tokenprune.IncompatibleError, match="'relevance' takes one image at a time"):
        tokenprune.method("cdpruner", source="language").select(tokens, keep=2)
