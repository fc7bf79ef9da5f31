# SPDX-License-Identifier: Apache-2.0
"""Metrics against cases worked out by hand."""

import pytest
from tokenprune_evaluation.metrics import exact_match, vqa_accuracy, vqa_normal, yes_or_no


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("red", ["red"], 1.0),
        (" Red\n", ["red"], 1.0),
        ("red", ["blue", "RED "], 1.0),
        ("red.", ["red"], 0.0),
        ("reddish", ["red"], 0.0),
        ("", ["red"], 0.0),
    ],
)
def test_exact_match(answer, accepted, right):
    assert exact_match(answer, accepted) == right


@pytest.mark.parametrize(
    ("answer", "meant"),
    [
        ("yes", "yes"),
        ("No", "no"),
        ("No, there is none.", "no"),
        ("There is not a dog in it", "no"),
        ("Yes. There is no cat though.", "yes"),  # only the first sentence counts
        ("nothing to see", "yes"),  # words, not letters; POPE counts what is no denial as yes
        ("NO", "yes"),  # as POPE's script has it
        ("", "yes"),
    ],
)
def test_yes_or_no(answer, meant):
    assert yes_or_no(answer) == meant


@pytest.mark.parametrize(("agree", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_with_ten_people(agree, accuracy):
    # 1: nine times 1/3, once 0; 2: eight times 2/3, twice 1/3; 3: seven times 1, three times 2/3
    given = ["two"] * agree + [f"other {i}" for i in range(10 - agree)]
    assert vqa_accuracy("2", given) == pytest.approx(accuracy)


def test_vqa_accuracy_with_few_people():
    assert vqa_accuracy("red", ["red"]) == 1.0
    assert vqa_accuracy("red", ["blue"]) == 0.0
    assert vqa_accuracy("red", ["red", "red", "blue"]) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    with pytest.raises(ValueError, match="at least one human answer"):
        vqa_accuracy("red", [])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Dog", "dog"),
        ("a dog, an apple", "dog apple"),
        ("Two", "2"),
        ("none", "0"),
        ("don't know", "dont know"),
        ("1,000", "1000"),
        ("red/blue", "red blue"),
        ("3.5 m.", "3.5 m"),
        ("what?", "what"),
        ("black\nand white", "black and white"),
    ],
)
def test_vqa_normal(text, normal):
    assert vqa_normal(text) == normal
