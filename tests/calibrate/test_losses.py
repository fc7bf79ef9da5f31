# SPDX-License-Identifier: Apache-2.0
"""Losses, goals and samples by hand."""

import pytest
from tokenprune_calibrate.goal import Goal
from tokenprune_calibrate.losses import Answer, is_zero_or_one, loss_of
from tokenprune_calibrate.sample import Sample
from tokenprune_embedded import Question
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.question_set import Item, QuestionSet


def item(metric="exact_match", *answers):
    return Item(0, Question("", "what ?", ""), answers or ("two",), metric)


@pytest.mark.parametrize(
    ("name", "metric", "answers", "unpruned", "pruned", "expected"),
    [
        ("disagreement", "exact_match", ("two",), "A red star.", "red star", 0.0),  # normalised
        ("disagreement", "exact_match", ("two",), "two", "2", 0.0),
        ("disagreement", "exact_match", ("two",), "red", "blue", 1.0),
        ("drop", "exact_match", ("red",), "red", "blue", 1.0),
        ("drop", "exact_match", ("red",), "blue", "red", 0.0),  # a gain is no loss
        ("drop", "exact_match", ("red",), "blue", "green", 0.0),
        ("drop", "yes_no_f1", ("no",), "no", "yes", 1.0),
        ("drop", "vqa_accuracy", ("a", "a", "b", "b", "b", "c", "c", "c", "c", "c"), "c", "a", 1 - 0.6),
    ],
)
def test_losses_by_hand(name, metric, answers, unpruned, pruned, expected):
    loss = loss_of(name, item(metric, *answers), Answer(unpruned), Answer(pruned))
    assert loss == pytest.approx(expected)


def test_the_divergence_is_that_of_the_answer():
    assert loss_of("divergence", item(), Answer("a"), Answer("b", 0.25)) == 0.25
    with pytest.raises(ValueError, match="not measured"):
        loss_of("divergence", item(), Answer("a"), Answer("b"))


def test_which_losses_are_zero_or_one():
    assert is_zero_or_one("disagreement", ("vqa_accuracy",))
    assert is_zero_or_one("drop", ("exact_match", "yes_no_f1"))
    assert not is_zero_or_one("drop", ("exact_match", "vqa_accuracy"))
    assert not is_zero_or_one("divergence", ("exact_match",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("wrongness", 0.1), "unknown loss 'wrongness'; known: disagreement, drop, divergence"),
        (("drop", 0.0), "limit of the drop must be a number above 0 and below 1, got 0.0"),
        (("drop", 1), "below 1, got 1"),
        (("drop", "0.1"), "got '0.1'"),
        (("drop", True), "got True"),
        (("drop", 0.1, 1.0), "the confidence must be a number above 0 and below 1, got 1.0"),
        (("drop", 0.1, 0.9, "word"), "unknown unit 'word'; known: picture, question"),
    ],
)
def test_bad_goals_are_refused(arguments, said):
    with pytest.raises(BadInputError, match=said):
        Goal(*arguments)


def questions(*pictures):
    items = tuple(
        Item(picture, Question("", f"{number} ?", ""), ("a",), "exact_match")
        for number, picture in enumerate(pictures)
    )
    return QuestionSet("some", items, lambda i: None, "digest")


def test_the_unit_is_the_picture():
    asked = questions(0, 0, 1, 2, 0, 2)
    sample = Sample.draw(asked, Goal("drop", 0.1))
    assert sorted(sample.units) == [(0, 1, 4), (2,), (3, 5)]
    assert not sample.has_single_questions
    assert Sample.draw(asked, Goal("drop", 0.1)).units == sample.units  # the seed is recorded
    orders = {Sample.draw(asked, Goal("drop", 0.1, seed=seed)).units for seed in range(20)}
    assert len(orders) == 6


def test_or_one_question_of_each_picture():
    asked = questions(0, 0, 1, 2, 0, 2)
    samples = [Sample.draw(asked, Goal("drop", 0.1, unit="question", seed=seed)) for seed in range(40)]
    for sample in samples:
        assert sample.has_single_questions
        assert sorted(asked.items[number].image for (number,) in sample.units) == [0, 1, 2]
    assert {number for sample in samples for (number,) in sample.units} == set(range(6))


def test_batches_keep_units_whole():
    sample = Sample(((0, 1, 4), (2,), (3, 5), (6,)))
    assert sample.batches(4) == [((0, 1, 4), (2,)), ((3, 5), (6,))]
    assert sample.batches(1) == [((0, 1, 4),), ((2,),), ((3, 5),), ((6,),)]
    assert sample.batches(100) == [((0, 1, 4), (2,), (3, 5), (6,))]
