# SPDX-License-Identifier: Apache-2.0
"""The benchmark on tiny models of the other families: their inputs, their oracles, what they leave out."""

import pytest
import tiny_models
from tokenprune_cli.bench.contenders import small_picture
from tokenprune_cli.bench.measure import Amount, measure
from tokenprune_cli.bench.workload import make_workload
from tokenprune_cli.console.failures import BadInputError

AMOUNT = Amount(("divprune", "fastv"), (6,), (2,), (1, 2), 8, 4, 1, 1, 1)


@pytest.mark.parametrize(
    ("family", "visual"),
    [("llava_next", 5 * 16 + 8), ("qwen", 16)],  # five tiles and the newlines of eight lines; 4 x 4 tokens
)
def test_other_families_are_measured(family, visual):
    model = getattr(tiny_models, family)()
    runs, skipped, workload = measure(model, AMOUNT)
    small = ["downsample"] if family == "qwen" else []
    assert list(skipped) == ([] if small else ["downsample"])
    assert (workload.n_visual, workload.n_text) == (visual, 8)
    assert [run.name for run in runs] == ["unpruned", *small, "divprune", "fastv", "oracle", "oracle"]
    runs = [run for run in runs if run.name != "downsample"]
    rows = [run.visual_rows for run in runs]
    assert rows[0] == ((0, visual),)
    assert rows[1][0][1] < visual and rows[2][0] == (0, visual) and rows[2][1][1] < visual
    assert rows[3:] == rows[1:3]
    slot = 2 * 2 * 16 * 4  # keys and values, heads, width, bytes
    for run in runs:
        kept = [[n for start, n in run.visual_rows if start <= layer][-1] for layer in range(4)]
        assert run.kv_bytes == 2 * slot * sum(n + 8 for n in kept)
        assert set(run.seconds) >= {"prefill", "decode_token", "end_to_end_1", "end_to_end_2"}


def test_a_model_nobody_can_make_inputs_for_is_refused():
    model = tiny_models.llava()
    model.config.model_type = "unheard_of"
    with pytest.raises(BadInputError, match="bench makes inputs for llava, llava_next, qwen2_vl, qwen2_5_vl"):
        make_workload(model, 1, 8, (4, 4))


def test_a_smaller_picture_of_a_model_that_takes_any_size():
    model = tiny_models.qwen()
    runs, _, _ = measure(model, AMOUNT)
    (small,) = (run for run in runs if run.name == "downsample")
    assert small.visual_rows == ((0, 4),)  # 2 x 2 is the largest square of at most 6
    assert small_picture((29, 46), 133) == (9, 14)  # the shape of the picture, up to rounding
    assert small_picture((1, 100), 2) == (1, 2)
    assert small_picture((4, 5), 20) == (4, 5)
    slot = 2 * 2 * 16 * 4
    assert small.kv_bytes == 2 * slot * 4 * (4 + 8)


def test_what_is_made_once_is_made_before_the_clock_runs(monkeypatch):
    """Operations counted of zoo-exact's prefill hold no product of weights with weights."""
    amount = Amount(("zoo-exact",), (6,), (2,), (1,), 8, 4, 1, 1, 1)
    runs, _, workload = measure(tiny_models.llava(), amount)
    pruned, bare = (next(run for run in runs if run.name == name) for name in ("zoo-exact", "oracle"))
    n, tower, hidden = 2 * workload.n_visual, 32, 64
    scoring = 2 * n * tower * hidden + 2 * n * hidden * hidden  # W1 x and Q g
    similarities = 2 * 2 * workload.n_visual**2 * 64
    assert pruned.flops_counted - bare.flops_counted == scoring + similarities
    assert workload.first_row()["pixel_values"].shape[0] == 1
