# SPDX-License-Identifier: Apache-2.0
"""Cuts inside the vision towers of vLLM answer as the same cuts do in transformers."""

import pytest
from engines import Reference, ask, assert_same, engine
from test_parity import KEEP, prompts

CUTS = {
    "llava": {"scorer": "uniform", "selector": "diverse", "stage": "vision", "layer": 1},
    "llava_siglip": {"method": "divprune", "stage": "vision", "layer": 0},
    "qwen": {"method": "divprune", "stage": "vision", "layer": 1},
}


@pytest.mark.parametrize("name", ["llava", pytest.param("llava_siglip", marks=pytest.mark.nightly), "qwen"])
def test_a_cut_inside_the_tower_answers_as_in_transformers(name, checkpoint):
    pruning = {**CUTS[name], "keep": KEEP[name]}
    with engine(checkpoint(name), pruning) as llm:
        answers = ask(llm, prompts(name))
        again = ask(llm, prompts(name))
    reference = Reference(checkpoint(name))
    for answer, repeated, asked in zip(answers, again, prompts(name), strict=True):
        assert_same(answer, reference.answer(asked, pruning))
        assert (repeated.tokens, repeated.n_prompt) == (answer.tokens, answer.n_prompt)
