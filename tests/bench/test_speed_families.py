# SPDX-License-Identifier: Apache-2.0
"""The benchmark on tiny models of the other families: their inputs, their oracles, what they leave out."""

import pytest
import tiny_models
from tokenprune_bench.bench.measure import Amount, measure
from tokenprune_bench.bench.workload import make_workload
from tokenprune_bench.cli.failures import BadInputError

AMOUNT = Amount(("divprune", "fastv"), (6,), (2,), (1, 2), 8, 4, 1, 1, 1)


@pytest.mark.parametrize(
    ("family", "visual"),
    [("llava_next", 5 * 16 + 8), ("qwen", 16)],  # five tiles and the newlines of eight lines; 4 x 4 tokens
)
def test_other_families_are_measured(family, visual):
    model = getattr(tiny_models, family)()
    timed, skipped, workload = measure(model, AMOUNT)
    assert skipped == {}
    assert (workload.n_visual, workload.n_text) == (visual, 8)
    assert [one.contender.name for one in timed] == ["unpruned", "divprune", "fastv", "oracle", "oracle"]
    rows = [one.found.profile for one in timed]
    assert rows[0] == ((0, visual),)
    assert rows[1][0][1] < visual and rows[2][0] == (0, visual) and rows[2][1][1] < visual
    assert rows[3:] == rows[1:3]
    slot = 2 * 2 * 16 * 4  # keys and values, heads, width, bytes
    for one in timed:
        kept = [[n for start, n in one.found.profile if start <= layer][-1] for layer in range(4)]
        assert one.found.kv_bytes == 2 * slot * sum(n + 8 for n in kept)
        assert set(one.samples) >= {"prefill", "decode_token", "end_to_end_1", "end_to_end_2"}


def test_a_model_nobody_can_make_inputs_for_is_refused():
    model = tiny_models.llava()
    model.config.model_type = "unheard_of"
    with pytest.raises(BadInputError, match="bench makes inputs for llava, llava_next, qwen2_vl, qwen2_5_vl"):
        make_workload(model, 1, 8, 4)
