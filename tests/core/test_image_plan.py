# SPDX-License-Identifier: Apache-2.0
"""Whether an image is left alone, and why: one rule for every stage."""

import pytest

from tokenprune import Budget, BudgetError, Cut, ExplicitSchedule, GeometricSchedule, Method
from tokenprune.image_plan import ImagePlan, LeftAlone, plan_image

FRONT = Method("front")
INSIDE = Method("inside", stage="decoder", schedule=GeometricSchedule((2, 4), depth=None))


@pytest.mark.parametrize("method", [FRONT, INSIDE])
@pytest.mark.parametrize(
    ("n", "hidden", "left_alone", "note"),
    [
        (11, False, LeftAlone.TOO_FEW_TOKENS, "fewer than 12 tokens"),
        (11, True, LeftAlone.TOO_FEW_TOKENS, "fewer than 12 tokens"),
        (30, True, LeftAlone.HIDDEN, "hidden by the attention mask"),
        (12, False, LeftAlone.NOTHING_TO_CUT, "budget not below N"),
        (16, False, LeftAlone.NOTHING_TO_CUT, "budget not below N"),
    ],
)
def test_both_stages_leave_the_same_images_alone(method, n, hidden, left_alone, note):
    cut = Cut(method, Budget(16), min_tokens=12)
    assert plan_image(cut, n, n_layers=8, hidden=hidden) == ImagePlan({}, left_alone)
    assert left_alone.note(cut) == note


def test_an_image_that_is_cut_has_rows_for_each_boundary():
    assert plan_image(Cut(FRONT, Budget(16)), 64) == ImagePlan({0: 16})
    assert plan_image(Cut(INSIDE, Budget(16)), 64, 8) == ImagePlan({2: 32, 4: 16})
    moved = INSIDE.with_options(stage="projector")  # its schedule is of no use there
    assert plan_image(Cut(moved, Budget(16)), 64) == ImagePlan({0: 16})


def test_a_schedule_that_says_its_rows_is_asked_and_not_the_budget():
    method = INSIDE.with_options(schedule=ExplicitSchedule((2,), (4,)))
    assert plan_image(Cut(method, Budget(99)), 64, 8) == ImagePlan({2: 4})
    assert plan_image(Cut(method, Budget(2)), 4, 8).left_alone is LeftAlone.NOTHING_TO_CUT


def test_a_small_image_is_not_held_against_the_schedule():
    cut = Cut(INSIDE.with_options(budget="average"), Budget(1), min_tokens=12)
    assert plan_image(cut, 11, 8).left_alone is LeftAlone.TOO_FEW_TOKENS
    with pytest.raises(BudgetError, match="an average of 1 rows a layer is not possible"):
        plan_image(cut, 64, 8)
