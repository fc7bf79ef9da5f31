# SPDX-License-Identifier: Apache-2.0
"""What the demo compares, and what it leaves out and why."""

from tokenprune_cli.demo.illustrations import examples
from tokenprune_cli.demo.plan import BUDGETS, METHODS, RECOMMENDED, make_plan
from tokenprune_cli.embedded import FAMILIES, held_out_scenes
from tokenprune_cli.evaluation import UNPRUNED, Setting

import tokenprune


def test_the_short_demo(untrained_model):
    plan = make_plan(untrained_model[0])
    assert plan.settings[0] == UNPRUNED
    assert plan.methods == METHODS and plan.budgets == BUDGETS
    assert set(plan.settings[1:]) == {Setting(m, k) for m in METHODS for k in BUDGETS}
    assert plan.skipped == {}


def test_the_recommended_method_is_what_apply_does_by_default(untrained_model):
    with tokenprune.apply(untrained_model[0], keep=9) as handle:
        assert handle.cuts[0].method.name == RECOMMENDED


def test_the_full_demo_takes_every_method_the_model_can_use(untrained_model):
    plan = make_plan(untrained_model[0], full=True, budgets=[9])
    assert set(plan.methods) | set(plan.skipped) == {*tokenprune.list_methods(), "downsample"}
    assert "downsample" in plan.methods
    assert plan.methods[: len(METHODS)] == METHODS
    assert "cdpruner" in plan.skipped and "clip_text_embeds" in plan.skipped["cdpruner"]


def test_choices_are_put_in_order(untrained_model):
    plan = make_plan(untrained_model[0], methods=["random", "stride", "random"], budgets=[5, 70, 5], scenes=4)
    assert plan.settings == (
        UNPRUNED,
        *(Setting(m, k) for k in (70, 5) for m in ("random", "stride")),
    )
    assert plan.scenes == 4


def test_examples_have_a_family_and_a_scene_each():
    drawn = list(held_out_scenes(40))
    chosen = examples(drawn)
    assert [question.family for _, question in chosen] == list(FAMILIES)
    assert len({scene for scene, _ in chosen}) == len(FAMILIES)
    assert all(question in drawn[scene][1] for scene, question in chosen)


def test_with_one_scene_there_is_one_example():
    chosen = examples(list(held_out_scenes(1)))
    assert len(chosen) == 1
