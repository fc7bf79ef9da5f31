# SPDX-License-Identifier: Apache-2.0
"""Combinations of parts at the same number of operations."""

import dataclasses

import pytest
from tokenprune_evaluation.errors import BadInputError

import tokenprune
from benchmarks.studies import STUDIES, combinations
from benchmarks.studies.operations import equal_share, operations


@pytest.fixture(scope="module")
def model(untrained_model):
    return untrained_model[0]


def test_operations_grow_with_the_tokens_kept_and_less_than_all_are_cheaper(model):
    base = combinations.variant("v", None, tokenprune.selector("topk"))
    counts = [operations(model, base, n / 144) for n in (1, 9, 36, 144)]
    assert counts == sorted(set(counts))
    config = model.config.text_config
    width, layers = config.hidden_size, config.num_hidden_layers
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or width // heads
    weights = width * head * (2 * heads + 2 * kv_heads) + 3 * width * config.intermediate_size
    squares = 4 * layers * heads * head * ((36 + 16) ** 2 - (9 + 16) ** 2)
    assert counts[2] - counts[1] == 27 * 2 * layers * weights + squares


def test_a_share_is_the_largest_that_takes_no_more_operations(model):
    base = combinations.variant("base", None, tokenprune.selector("diverse"))
    cheaper = combinations.in_tower("tower", base.method)
    share = equal_share(model, cheaper, base, 1 / 8)
    kept = round(share * 144)
    assert kept > 18
    limit = operations(model, base, 1 / 8)
    assert operations(model, cheaper, kept / 144) <= limit < operations(model, cheaper, (kept + 1) / 144)
    assert equal_share(model, base, base, 1 / 8) == 18 / 144


def test_a_variant_that_is_always_dearer_is_refused(model):
    base = combinations.variant("base", None, tokenprune.selector("topk"))
    half = combinations.in_tower("half a tower", base.method)
    with pytest.raises(tokenprune.IncompatibleError, match="takes more operations with one token"):
        equal_share(model, base, half, 1 / 144)


def test_the_plan_compares_with_zoo_prune_and_keeps_its_budgets_after_the_tower(model):
    plan = combinations.combinations(model)
    assert plan.base == plan.variants[0].name == "zoo-prune"
    for variant in plan.variants:
        if variant.method.stage == "vision":
            assert set(variant.shares) == set(plan.shares)
            assert all(own > share for share, own in variant.shares.items())
        else:
            assert not variant.shares


def test_a_study_can_be_narrowed_to_some_variants_and_the_base(model):
    study = STUDIES["combinations"]
    assert study.only(()) is study
    plan = study.only(("mmr", "max")).plan(model)
    assert [variant.name for variant in plan.variants] == ["zoo-prune", "max", "mmr"]
    with pytest.raises(BadInputError, match="has no variant 'best'; it has zoo-prune, max"):
        study.only(("best",)).plan(model)


def test_a_variant_keeps_its_own_share(model):
    variant = combinations.variant("v", None, tokenprune.selector("topk"))
    with dataclasses.replace(variant, shares={1 / 8: 1 / 4}).applied(model, 1 / 8) as handle:
        assert "keep_ratio=0.25" in repr(handle)


def test_the_scenes_of_both_steps_and_earlier_figures_are_disjoint():
    used = range(0, 110_000)  # the demo, calibration and tower-diverse
    steps = (combinations.EXPLORATION, combinations.CONFIRMATION)
    assert not set(used).intersection(*steps)
    assert not set(steps[0]) & set(steps[1]) and not set(used) & set(steps[0])
