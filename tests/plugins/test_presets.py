# SPDX-License-Identifier: Apache-2.0
"""The test of the vocabulary: these methods are combinations of parts, and bring nothing of their own."""

import pytest

import tokenprune

PRESETS = {
    "zoo-prune": ("zoo", "diverse"),
    "zoo-exact": ("zoo-exact", "diverse"),
    "divprune": ("uniform", "diverse"),
    "otprune": ("uniform", "logdet"),
    "scope": ("attention", "coverage"),
    "scope-received": ("attention", "coverage"),
    "fastv": ("attention", "topk"),
    "pyramiddrop": ("attention", "topk"),
    "random": ("random", "topk"),
    "stride": ("uniform", "topk"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_plain_method_of_registered_parts(name):
    method, registry = tokenprune.method(name), tokenprune.default_registry()
    assert type(method) is tokenprune.Method
    assert tuple(part.name for part in method.parts) == PRESETS[name]
    for part in method.parts:
        assert type(part) is registry.find(part.kind, part.name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_schedule_is_one_of_the_core(name):
    schedule = tokenprune.method(name).schedule
    assert schedule is None or type(schedule) is tokenprune.GeometricSchedule


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_chooses_what_its_parts_choose(name):
    from tokenprune.testing import example_tokens

    method, tokens = tokenprune.method(name), example_tokens()
    scorer, selector = method.parts
    by_hand = selector.select(tokens, scorer.score(tokens), keep=7)
    assert method.select(tokens, keep=7).indices.tolist() == by_hand.indices.tolist()
