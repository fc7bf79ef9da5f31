# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden
from reference import prior as slow
from tokenprune_plugins.prior import ROWS_AT_ONCE, PriorScorer

import tokenprune

GOLDEN = golden.names("priortr_n*_k*", "priortr_n64_k16", "priortr_n64_k8")


def tokens_of(rows, layer=3, n_text=None):
    """Tokens whose text rows attend as in `rows` (H, R, N), and the calls for attention."""
    asked = []

    def attention_rows(layer, wanted):
        asked.append((layer, wanted.tolist()))
        return rows[:, wanted]

    n_text = rows.shape[1] if n_text is None else n_text
    signals = {"attention_rows": attention_rows, "text_embeds": torch.zeros(n_text, 2)}
    return tokenprune.VisualTokens(torch.zeros(rows.shape[-1], 2), signals, layer=layer), asked


def scores_of(rows, n_text=None, **options):
    return PriorScorer(**options).score(tokens_of(rows, n_text=n_text)[0])


def random_rows(seed, heads, n_rows, n):
    draw = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(heads, n_rows, n, generator=draw)).softmax(-1)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_scores(name):
    vectors = golden.load(name)
    cases = [key.split("_")[1:] for key in vectors if key.startswith("scores_")]
    assert len(cases) >= 5
    for code, query, heads in cases:
        scores = scores_of(vectors["attn_rows"], query=query, heads=heads, last_row=code == "llava")
        torch.testing.assert_close(scores, vectors[f"scores_{code}_{query}_{heads}"], rtol=2e-4, atol=2e-8)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 4), st.integers(3, 9), st.integers(1, 20)),
    query=st.sampled_from(["question", "last"]),
    heads=st.sampled_from(["mean", "max"]),
    last_row=st.booleans(),
)
def test_equals_the_slow_reference(seed, shape, query, heads, last_row):
    rows, options = random_rows(seed, *shape), {"query": query, "heads": heads, "last_row": last_row}
    wanted = torch.from_numpy(slow.scores(rows, **options)).float()
    torch.testing.assert_close(scores_of(rows, **options), wanted, rtol=1e-4, atol=1e-6)


def test_by_hand():
    # P = (.6, .2) / .8 after the mean of (.3, .3) and (.9, .1); Q = (.5, .5)
    rows = torch.tensor([[[0.3, 0.3], [0.9, 0.1]]])
    assert scores_of(rows).tolist() == pytest.approx([0.75 * math.log(1.5), 0.25 * math.log(0.5)])
    # the last row alone: P = (.9, .1)
    assert scores_of(rows, query="last").tolist() == pytest.approx([0.9 * math.log(1.8), 0.1 * math.log(0.2)])


def test_heads_are_combined_before_the_division():
    rows = torch.tensor([[[0.25, 0.25], [0.5, 0.0]], [[0.25, 0.25], [0.0, 0.25]]])
    # max over heads of the last row: (.5, .25), P = (2/3, 1/3)
    wanted = [2 / 3 * math.log(4 / 3), 1 / 3 * math.log(2 / 3)]
    assert scores_of(rows, query="last", heads="max").tolist() == pytest.approx(wanted)


def test_the_scores_sum_to_a_divergence_which_is_never_negative():
    for seed in range(20):
        assert scores_of(random_rows(seed, 3, 5, 12)).sum() > -1e-6


def test_only_the_rows_in_use_are_asked_for():
    rows = random_rows(0, 2, 5, 6)
    asked = {}
    for query, last_row in (("question", True), ("question", False), ("last", True)):
        tokens, asked[query, last_row] = tokens_of(rows, layer=7)
        PriorScorer(query=query, last_row=last_row).score(tokens)
    assert asked == {
        ("question", True): [(6, [0, 1, 2, 3, 4])],
        ("question", False): [(6, [0, 1, 2, 3])],
        ("last", True): [(6, [0, -1])],
    }


def test_long_questions_are_read_in_blocks():
    rows = random_rows(0, 2, 2 * ROWS_AT_ONCE + 5, 6)
    tokens, asked = tokens_of(rows)
    scores = PriorScorer().score(tokens)
    assert [len(wanted) for _, wanted in asked] == [ROWS_AT_ONCE, ROWS_AT_ONCE, 5]
    wanted = torch.from_numpy(slow.scores(rows)).float()
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("query", ["question", "last"])
@pytest.mark.parametrize("last_row", [True, False])
@pytest.mark.parametrize("n_text", [0, 1])
def test_without_a_question_the_last_rows_attention_ranks(n_text, query, last_row):
    """The image ends its prompt, or one token follows it."""
    rows = torch.tensor([[[0.1, 0.4, 0.3]], [[0.1, 0.0, 0.1]]])
    options = {"query": query, "last_row": last_row}
    assert scores_of(rows, n_text, **options).tolist() == pytest.approx([0.2, 0.4, 0.4])
    assert scores_of(rows, n_text, official=True, **options).tolist() == [0, 0, 0]
    assert scores_of(rows, n_text, heads="max").tolist() == pytest.approx([0.125, 0.5, 0.375])


def test_a_question_of_one_row_falls_back_to_the_last_row():
    rows = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]])
    shortened = scores_of(rows, last_row=False)
    assert torch.equal(shortened, scores_of(rows, query="last"))
    assert shortened[0] > 0 > shortened[1]
    assert scores_of(rows, last_row=False, official=True).tolist() == [0, 0]


def test_where_there_is_a_question_official_changes_nothing():
    rows = random_rows(0, 3, 4, 10)
    for options in ({}, {"query": "last"}, {"last_row": False}, {"heads": "max"}):
        assert torch.equal(scores_of(rows, official=True, **options), scores_of(rows, **options))


def test_tokens_that_nothing_attends_to_score_zero():
    rows = torch.tensor([[[0.5, 0.0, 0.0], [0.5, 0.25, 0.0]]])
    scores = scores_of(rows)
    assert scores.isfinite().all() and scores[2] == 0 and scores[1] > 0


def test_half_precision_rows_are_read_in_float32():
    rows = random_rows(0, 3, 4, 10).bfloat16()
    assert torch.equal(scores_of(rows), scores_of(rows.float()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"query": "first"}, "query must be one of 'question', 'last', got 'first'"),
        ({"heads": "sum"}, "heads must be one of 'mean', 'max', got 'sum'"),
        ({"last_row": 1}, "last_row must be True or False, got 1"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(tokenprune.OptionError, match=sentence):
        tokenprune.scorer("prior", **options)


def test_there_is_no_attention_before_layer_0():
    with pytest.raises(tokenprune.IncompatibleError, match="cut before layer 1 or later"):
        PriorScorer().score(tokens_of(random_rows(0, 1, 3, 4), layer=0)[0])


def test_it_needs_attention_and_the_number_of_text_rows():
    assert PriorScorer().needs == {"attention_rows", "text_embeds"}
