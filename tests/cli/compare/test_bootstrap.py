# SPDX-License-Identifier: Apache-2.0
"""Scores as ratios of sums, and paired intervals over pictures, against figures worked out by hand."""

import numpy as np
import pytest
from tokenprune_cli.compare.bootstrap import Interval, draws, interval, ratio
from tokenprune_cli.compare.scoring import is_right, parts, picture_sums
from tokenprune_embedded import Question
from tokenprune_evaluation.question_set import Item


def item(image, answer, metric="exact_match", answers=None):
    return Item(image, Question("", "what ?", answer), answers or (answer,), metric)


def test_exact_match_and_vqa_are_means():
    assert parts(item(0, "red"), " Red ") == (1.0, 1.0)
    assert parts(item(0, "red"), "blue") == (0.0, 1.0)
    people = ("red", "red", "blue", "green")  # 2 of 4 agree: leaving each out, 1/3 twice and 2/3 twice
    assert parts(item(0, "red", "vqa_accuracy", people), "red") == (pytest.approx(0.5), 1.0)


@pytest.mark.parametrize(
    ("label", "answer", "sums", "right"),
    [
        ("yes", "yes", (2.0, 2.0), True),
        ("yes", "no", (0.0, 1.0), False),
        ("no", "yes", (0.0, 1.0), False),
        ("no", "no", (0.0, 0.0), True),
    ],
)
def test_yes_and_no_add_up_to_f1(label, answer, sums, right):
    assert parts(item(0, label, "yes_no_f1"), answer) == sums
    assert is_right(item(0, label, "yes_no_f1"), answer) is right


def answered(labels, answers):
    items = [item(i, label, "yes_no_f1") for i, label in enumerate(labels)]
    return zip(items, answers, strict=True)


def test_the_ratio_of_sums_is_f1():
    labels, answers = ["yes", "yes", "no", "no", "yes"], ["yes", "no", "yes", "no", "yes"]
    sums = picture_sums(answered(labels, answers))
    assert ratio(sums.sum(0)) == pytest.approx(2 / 3)  # 2 of 3 yes found, 2 of 3 said rightly
    answers = ["yes", "Yes.", "no", "yes", "no", "No, none", "yes"]
    labels = ["yes", "yes", "yes", "no", "no", "no", "no"]
    sums = picture_sums(answered(labels, answers))
    assert ratio(sums.sum(0)) == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))  # precision, recall


def test_nothing_to_divide_by_is_zero():
    assert ratio(np.array([0.0, 0.0])) == 0.0


def test_questions_of_a_picture_are_added_up():
    items = [item(4, "a"), item(2, "b"), item(4, "c")]
    assert picture_sums(zip(items, ["a", "x", "c"], strict=True)).tolist() == [[2.0, 2.0], [0.0, 1.0]]


# two pictures, one question each; the four draws of two pictures: aa, ab, ba, bb
COUNTS = np.array([[2.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 2.0]])


def test_an_interval_by_hand():
    # right on a only: samples 0, 1/2, 1/2, 1 when sorted; 2.5 % lies 0.075 of the way from 0 to 1/2
    found = interval(np.array([[1.0, 1.0], [0.0, 1.0]]), counts=COUNTS)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.0375), pytest.approx(0.9625))


def test_a_difference_is_taken_on_the_same_draw():
    ours, theirs = np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    found = interval(ours, theirs, COUNTS)  # samples 0, 1/2, 1/2, 1
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.0375), pytest.approx(0.9625))
    assert interval(ours, ours, COUNTS) == Interval(0.0, 0.0, 0.0)


def test_pictures_weigh_by_their_questions():
    # a: 3 of 3 right, b: 0 of 1; samples 1, 3/4, 3/4, 0
    found = interval(np.array([[3.0, 3.0], [0.0, 1.0]]), counts=COUNTS)
    assert found.value == 0.75
    assert found.low == pytest.approx(0.075 * 0.75)


def test_one_picture_says_nothing_about_noise():
    found = interval(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]]), np.ones((4, 1)))
    assert found == Interval(1.0, None, None)
    assert not found.is_clear


def test_clear_means_that_zero_lies_outside():
    assert Interval(0.2, 0.1, 0.3).is_clear and Interval(-0.2, -0.3, -0.1).is_clear
    assert not Interval(0.2, 0.0, 0.3).is_clear and not Interval(0.0, 0.0, 0.0).is_clear


def test_draws_are_samples_of_as_many_pictures_and_always_the_same():
    found = draws(5, 100)
    assert found.shape == (100, 5)
    assert (found.sum(1) == 5).all() and (found >= 0).all()
    assert (found == draws(5, 100)).all() and (found != draws(5, 100, seed=1)).any()
    assert found.mean() == 1


def test_the_bootstrap_agrees_with_the_normal_interval_on_many_pictures():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.3).astype(float)
    found = interval(np.stack([right, np.ones(400)], 1))
    error = 1.96 * (right.mean() * (1 - right.mean()) / 400) ** 0.5
    assert found.low == pytest.approx(right.mean() - error, abs=0.01)
    assert found.high == pytest.approx(right.mean() + error, abs=0.01)
