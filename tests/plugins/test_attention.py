# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from tokenprune_plugins.attention import AttentionScorer

import tokenprune

HEADS = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.3, 0.1]])  # two heads, four tokens


def tokens_of(layer=None, **signals):
    return tokenprune.VisualTokens(torch.zeros(4, 2), signals, layer=layer)


def test_cls_attention_is_the_mean_over_heads():
    scores = AttentionScorer().score(tokens_of(cls_attention=HEADS))
    assert scores.tolist() == pytest.approx([0.3, 0.15, 0.3, 0.25])


@pytest.mark.parametrize(
    ("heads", "want"),
    [("mean", [0.3, 0.15, 0.3, 0.25]), ("sum", [0.6, 0.3, 0.6, 0.5]), ("max", [0.5, 0.2, 0.3, 0.4])],
)
def test_heads_are_combined_as_asked(heads, want):
    of_cls = AttentionScorer(heads=heads).score(tokens_of(cls_attention=HEADS))
    assert of_cls.tolist() == pytest.approx(want)
    rows = {"attention_rows": lambda layer, rows: HEADS.unsqueeze(1)}
    assert torch.equal(AttentionScorer(source="text", heads=heads).score(tokens_of(2, **rows)), of_cls)


def test_other_ways_to_combine_heads_are_refused():
    with pytest.raises(tokenprune.OptionError, match="'mean', 'sum', 'max', got 'median'"):
        tokenprune.scorer("attention", heads="median")


def test_received_attention_is_taken_as_it_is():
    received = torch.tensor([0.4, 0.3, 0.2, 0.1])
    assert torch.equal(
        AttentionScorer(source="received").score(tokens_of(received_attention=received)), received
    )


@pytest.mark.parametrize(("block", "read"), [(None, 22), (8, 8)])
def test_attention_of_a_block_of_the_tower_is_that_of_the_last_by_default(block, read):
    received = {read: torch.tensor([0.4, 0.3, 0.2, 0.1])}
    scorer = AttentionScorer(source="tower", block=block)
    assert scorer.tower_blocks(23) == (read,)
    assert scorer.needs == {"tower_received", "tower_depth"}
    tokens = tokens_of(tower_received=received.__getitem__, tower_depth=23)
    assert torch.equal(scorer.score(tokens), received[read])


@pytest.mark.parametrize("source", ["cls", "received", "text"])
def test_other_sources_read_no_block(source):
    assert AttentionScorer(source=source).tower_blocks(23) == ()


@pytest.mark.parametrize(
    ("source", "option", "value", "sources"),
    [
        ("cls", "block", 8, "'tower'"),
        ("text", "block", 0, "'tower'"),
        ("received", "heads", "max", "'cls' or 'text'"),
        ("tower", "heads", "sum", "'cls' or 'text'"),
        ("cls", "offset", 0, "'text'"),
    ],
)
def test_an_option_of_another_source_is_refused(source, option, value, sources):
    with pytest.raises(
        tokenprune.OptionError, match=f"{option}={value!r} is for source={sources}, got '{source}'"
    ):
        AttentionScorer(source=source, **{option: value})


@pytest.mark.parametrize(("offset", "layer"), [(-1, 6), (0, 7)])
def test_text_attention_asks_one_layer_for_the_prompts_last_row(offset, layer):
    asked = []

    def attention_rows(layer, rows):
        asked.append((layer, rows.tolist()))
        return HEADS.unsqueeze(1)

    scores = AttentionScorer(source="text", offset=offset).score(
        tokens_of(layer=7, attention_rows=attention_rows)
    )
    assert scores.tolist() == pytest.approx([0.3, 0.15, 0.3, 0.25])
    assert asked == [(layer, [-1])]


@pytest.mark.parametrize("source", ["cls", "text"])
def test_a_stack_is_scored_like_its_images_one_by_one(source):
    heads = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    scorer = AttentionScorer(source=source)

    def tokens_of_heads(heads, features):
        signals = {"cls_attention": heads, "attention_rows": lambda layer, rows: heads.unsqueeze(-2)}
        return tokenprune.VisualTokens(features, signals, layer=2)

    together = scorer.score(tokens_of_heads(heads, torch.zeros(3, 4, 2)))
    apart = [scorer.score(tokens_of_heads(one, torch.zeros(4, 2))) for one in heads]
    assert torch.equal(together, torch.stack(apart))


def test_half_precision_probabilities_are_averaged_in_float32():
    heads = torch.rand(16, 4, generator=torch.Generator().manual_seed(0)).half()
    scores = AttentionScorer().score(tokens_of(cls_attention=heads))
    torch.testing.assert_close(scores, heads.float().mean(0))


def test_only_the_signal_of_the_source_is_needed():
    needs = {source: AttentionScorer(source=source).needs for source in ("cls", "received", "text")}
    assert needs == {"cls": {"cls_attention"}, "received": {"received_attention"}, "text": {"attention_rows"}}


def test_an_unknown_source_is_refused():
    with pytest.raises(tokenprune.OptionError, match="'cls', 'received', 'tower', 'text', got 'image'"):
        tokenprune.scorer("attention", source="image")


def test_without_a_layer_text_attention_is_refused():
    with pytest.raises(tokenprune.IncompatibleError, match="the decoder layer before which the cut is made"):
        AttentionScorer(source="text").score(tokens_of(attention_rows=lambda layer, rows: HEADS))


def test_a_cut_before_layer_0_has_no_attention_to_go_by():
    with pytest.raises(tokenprune.IncompatibleError, match="cut before layer 1 or later"):
        AttentionScorer(source="text").score(tokens_of(layer=0, attention_rows=lambda layer, rows: HEADS))
