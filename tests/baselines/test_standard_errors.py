# SPDX-License-Identifier: Apache-2.0
"""Means with their standard error over scenes, and differences in pairs."""

import math

import pytest
from scene_batches import SceneAnswer
from tokenprune_embedded import Question
from tokenprune_evaluation.answering import Answered

from baselines.standard_errors import Estimate, mean_of, paired_gap


def answered(scene, is_right, family="counting", text="how many ?"):
    answer = Answered("1" if is_right else "2", (5,), 4, 4, 1.0)
    return SceneAnswer(scene, Question(family, text, "1"), answer)


def test_the_mean_and_its_error_by_hand():
    # clusters of residuals: a: -0.5 + 0.5 = 0, b: 0.5, c: -0.5; 3/2 * (0.25 + 0.25) = 0.75
    estimate = mean_of([0.0, 1.0, 1.0, 0.0], ["a", "a", "b", "c"])
    assert estimate.value == 0.5
    assert estimate.n == 4
    assert estimate.standard_error == pytest.approx(math.sqrt(0.75) / 4)


def test_one_question_a_scene_is_the_usual_standard_error():
    values = [1.0, 1.0, 0.0, 1.0, 0.0]
    mean = sum(values) / 5
    variance = sum((v - mean) ** 2 for v in values) / 4
    assert mean_of(values, range(5)).standard_error == pytest.approx(math.sqrt(variance / 5))


def test_answers_that_stand_or_fall_together_count_once():
    single = mean_of([1.0, 0.0, 1.0], [0, 1, 2])
    repeated = mean_of([1.0] * 10 + [0.0] * 10 + [1.0] * 10, [0] * 10 + [1] * 10 + [2] * 10)
    assert repeated.value == pytest.approx(single.value)
    assert repeated.standard_error == pytest.approx(single.standard_error)


def test_a_single_scene_says_nothing_about_the_spread():
    assert mean_of([1.0, 0.0], [7, 7]).standard_error == math.inf


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        mean_of([], [])


@pytest.mark.parametrize(
    ("value", "error", "clear"),
    [(0.1, 0.04, True), (0.1, 0.06, False), (-0.1, 0.04, True), (0.0, 0.0, False), (0.1, math.inf, False)],
)
def test_a_difference_is_clear_from_two_standard_errors_on(value, error, clear):
    assert Estimate(value, error, 10).is_clear is clear


@pytest.mark.parametrize(("text", "is_right"), [("red", True), ("Red", False), ("red .", False), ("", False)])
def test_a_match_is_exact(text, is_right):
    answer = Answered(text, (5,), 4, 4, 1.0)
    assert SceneAnswer(0, Question("attribute", "q", "red"), answer).is_right is is_right


def test_a_gap_is_taken_question_by_question():
    better = [answered(0, True), answered(1, True), answered(2, True), answered(3, False)]
    worse = [answered(0, True), answered(1, False), answered(2, True), answered(3, False)]
    gap = paired_gap(better, worse)
    assert gap.value == 0.25
    assert gap.standard_error == pytest.approx(math.sqrt(4 / 3 * (3 * 0.0625 + 0.5625)) / 4)
    assert paired_gap(better, better) == Estimate(0.0, 0.0, 4)


def test_gaps_need_the_same_questions():
    with pytest.raises(ValueError, match="same questions"):
        paired_gap([answered(0, True)], [answered(1, True)])
    with pytest.raises(ValueError, match="same questions"):
        paired_gap([answered(0, True)], [answered(0, True, text="another ?")])
