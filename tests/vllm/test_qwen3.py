# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5 in bfloat16, the only precision that vLLM's kernels for CPUs know."""

import inspect

import pytest
import torch
from checkpoints import picture
from engines import Reference, ask, engine, prompt

pytestmark = pytest.mark.nightly


class Prefill:
    """The last of the longest rows that a module has got, and the positions with them."""

    def __init__(self, module, rows, positions):
        self.rows, self.positions, self._names = torch.empty(0, 0), None, (rows, positions)
        self._signature = inspect.signature(module.forward)
        if hasattr(module, "inv_freq"):  # our own hook changes the positions before
            module.register_forward_hook(self._see, with_kwargs=True)
        else:
            module.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs, output=None):
        given = self._signature.bind(*args, **kwargs).arguments
        rows = given[self._names[0]]
        if rows.shape[-2] >= self.rows.shape[-2]:
            positions = given.get(self._names[1])
            self.rows, self.positions = rows.clone(), None if positions is None else positions.clone()


@pytest.mark.parametrize("method", ["stride", "zoo-exact"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_qwen3_5_keeps_the_rows_and_positions_that_transformers_keeps(name, method, checkpoint):
    pruning = {"method": method, "keep": 40}
    text = "<s> <s> IMAGE </s> <s> IMAGE <s>"  # special tokens: Qwen3.5's tokenizer has no words of its own
    asked = prompt(name, text, picture(1, 160, 64), picture(2, 64, 176))
    reference = Reference(checkpoint(name))
    expected = Prefill(reference.model.model.language_model.rotary_emb, "x", "position_ids")
    wanted = reference.answer(asked, pruning)
    with engine(checkpoint(name), pruning, dtype="bfloat16") as llm:
        model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
        found = Prefill(model.language_model.model.layers[0], "hidden_states", "positions")
        (answer,) = ask(llm, [asked])
    n = 6 + 2 * (1 + 40 + 1)  # the tokenizer begins with another <s>
    assert answer.n_prompt == wanted.n_prompt == len(expected.rows[0]) == n
    kept, wanted_rows = found.positions[:, :n].long(), expected.positions[-3:, 0].long()
    same = {tuple(place) for place in kept.T.tolist()} & {tuple(place) for place in wanted_rows.T.tolist()}
    if method == "zoo-exact":  # nearly equal scores change places
        assert len(same) > n - 12
        return
    torch.testing.assert_close(kept, wanted_rows)
    difference = (found.rows[:n].float() - expected.rows[0]).norm(dim=1) / expected.rows[0].norm(dim=1)
    assert difference.max() < 0.03  # bfloat16 has eight bits
