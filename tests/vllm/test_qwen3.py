# SPDX-License-Identifier: Apache-2.0
"""Qwen3.5 in bfloat16, the only precision that vLLM's kernels for CPUs know."""

import pytest
import torch
from checkpoints import picture
from engines import Reference, ask, engine, prompt

pytestmark = pytest.mark.nightly


class DecoderInputs:
    """Positions and rows that the first decoder layer gets, of the first call."""

    def __init__(self, layer):
        self.rows = self.positions = None
        self._handle = layer.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs):
        self.rows = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        positions = kwargs.get("positions")
        self.positions = None if positions is None else positions.clone()
        self._handle.remove()


def rotations(model):
    """Positions with three axes that transformers rotates by, of the first call."""
    seen = []
    rotary = model.model.language_model.rotary_emb
    handle = rotary.register_forward_pre_hook(lambda module, args: seen.append(args[1]) or handle.remove())
    return seen


@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "vispruner-received"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_qwen3_5_keeps_the_rows_and_positions_that_transformers_keeps(name, method, checkpoint):
    pruning = {"method": method, "keep": 40}
    asked = prompt(name, "w5 IMAGE w3 w14 IMAGE w9", picture(1, 160, 64), picture(2, 64, 176))
    reference = Reference(checkpoint(name))
    expected = DecoderInputs(reference.model.model.language_model.layers[0])
    positions = rotations(reference.model)
    wanted = reference.answer(asked, pruning)
    with engine(checkpoint(name), pruning, dtype="bfloat16") as llm:
        model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
        found = DecoderInputs(model.language_model.model.layers[0])
        (answer,) = ask(llm, [asked])
    assert answer.n_prompt == wanted.n_prompt == len(expected.rows[0])
    n = answer.n_prompt
    torch.testing.assert_close(found.positions[:, :n].long(), positions[0][-3:, 0])
    difference = (found.rows[:n].float() - expected.rows[0]).norm(dim=1) / expected.rows[0].norm(dim=1)
    assert difference.max() < 0.02  # bfloat16 has eight bits
