# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden

import tokenprune


@pytest.mark.parametrize("name", ["fastv_n64_case0", "fastv_n64_case1"])
def test_golden_picks(name):
    vectors = golden.load(name)
    start, n = int(vectors["image_start"]), int(vectors["image_len"])
    stop, length = start + n, int(vectors["seq_len"])
    asked = []

    def attention_rows(layer, rows):
        asked.append(layer)
        return vectors["attn_last_row"][:, None, start:stop]

    tokens = tokenprune.VisualTokens(vectors["hidden"][0, start:stop], {"attention_rows": attention_rows})
    chosen = tokenprune.method("fastv").select(tokens, keep=int(vectors["n_keep"]), layer=2)
    kept = [*range(start), *(start + chosen.indices).tolist(), *range(stop, length)]
    assert kept == vectors["keep_indices"].tolist()
    assert asked == [1]
    rows = torch.cat(
        [vectors["hidden"][0, :start], tokens.features[chosen.indices], vectors["hidden"][0, stop:]]
    )
    assert torch.equal(rows, vectors["hidden_out"][0])


def test_by_hand():
    heads = torch.tensor([[[0.1, 0.2, 0.3, 0.4]], [[0.5, 0.1, 0.3, 0.1]]])  # means .3 .15 .3 .25
    tokens = tokenprune.VisualTokens(torch.zeros(4, 2), {"attention_rows": lambda layer, rows: heads})
    assert tokenprune.method("fastv").select(tokens, keep=3, layer=2).order.tolist() == [0, 2, 3]


def test_one_cut_before_layer_2_of_32_and_positions_stay():
    method = tokenprune.method("fastv")
    assert (method.stage, method.positions) == ("decoder", "original")
    assert method.schedule.cuts(64, 576, 32) == {2: 64}
    assert method.schedule.cuts(64, 576, 12) == {1: 64}
    assert method.schedule.cuts(192, 576, 32, "average") == {2: 166}


def test_is_a_preset_without_code_of_its_own():
    import tokenprune_plugins.fastv as module

    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
    assert [thing.__name__ for thing in own] == ["tokenprune_methods"]
