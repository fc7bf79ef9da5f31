# SPDX-License-Identifier: Apache-2.0
import torch
from reference import golden

import tokenprune


def test_golden_picks():
    vectors = golden.load("pyramiddrop_n64_r0.5")
    start, n = int(vectors["image_start"]), int(vectors["image_len"])
    stop = start + n
    query, keys = vectors["query_last"], vectors["keys"]  # (H, 1, d), (H, L, d)
    asked = []

    def attention_rows(layer, rows):
        asked.append(layer)
        return (query @ keys.mT / keys.shape[-1] ** 0.5).softmax(-1)[..., start:stop]

    hidden = vectors["hidden"][0]
    tokens = tokenprune.VisualTokens(hidden[start:stop], {"attention_rows": attention_rows})
    chosen = tokenprune.method("pyramiddrop").select(tokens, keep=int(vectors["n_keep"]), layer=8)
    assert asked == [8]  # the attention of the layer about to run
    torch.testing.assert_close(chosen.scores, vectors["scores"], rtol=1e-5, atol=1e-8)
    assert (start + chosen.indices).tolist() == vectors["kept_abs_idx"].tolist()
    rows = torch.cat([hidden[:start], tokens.features[chosen.indices], hidden[stop:]])
    assert torch.equal(rows, vectors["hidden_out"])


def test_the_papers_budget_halves_three_times():
    method = tokenprune.method("pyramiddrop")
    assert method.schedule.cuts(72, 576, 32) == {8: 288, 16: 144, 24: 72}
    assert method.schedule.cuts(72, 576, 12) == {3: 288, 6: 144, 9: 72}
    assert (method.stage, method.positions) == ("decoder", "contiguous")


def test_is_a_preset_without_code_of_its_own():
    import tokenprune_plugins.pyramiddrop as module

    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
    assert [thing.__name__ for thing in own] == ["tokenprune_methods"]
