# SPDX-License-Identifier: Apache-2.0
"""Score answers as strings: exact match, yes or no as in POPE, accuracy as in VQAv2.

POPE: Li et al., EMNLP 2023, arXiv 2305.10355. VQA: Goyal et al., CVPR 2017, arXiv 1612.00837.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NAMES = ("exact_match", "yes_no_f1", "vqa_accuracy")
YES, NO = "yes", "no"
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_DIGIT_OF = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NEEDED = 3  # people who must agree with an answer for a full score


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if the answer is accepted, else 0, regardless of case and surrounding whitespace."""
    return float(answer.strip().casefold() in {text.strip().casefold() for text in accepted})


def yes_or_no(answer: str) -> str:
    """Classify an answer as POPE's script does: as no if its first sentence contains "no" or "not"."""
    first = answer.strip().split(".")[0].replace(",", "")
    return NO if {"No", "no", "not"} & set(first.split()) else YES


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """Return how far people agree with an answer: min(1, people who gave it / 3), each left out in turn.

    With ten people it is 0.3 if one of them gave the answer, then 0.6, 0.9, and 1 from four on. With fewer
    than four people, all of the others must agree; with a single person it is 1 or 0.

    Parameters
    ----------
    answer
        The answer of the model.
    human_answers
        One answer per person.

    Raises
    ------
    ValueError
        If there are no human answers.
    """
    if not human_answers:
        raise ValueError("accuracy needs at least one human answer")
    answer, people = vqa_normal(answer), [vqa_normal(text) for text in human_answers]
    if len(people) == 1:
        return float(answer == people[0])
    agree = people.count(answer)
    needed = min(_NEEDED, len(people) - 1)
    scores = [min(1.0, (agree - (person == answer)) / needed) for person in people]
    return sum(scores) / len(scores)


def vqa_normal(text: str) -> str:
    """Normalize an answer as the VQA script does: lower case, digits, no articles, hardly any punctuation.

    Apostrophes are removed from all answers; the script inserts those that are missing.
    """
    text = re.sub(r"\s+", " ", text).strip()
    joined = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in f"{text} " or f" {mark}" in f" {text}"
        text = text.replace(mark, "" if joined or beside_space else " ")
    text = re.sub(r"\.(?!\d)", "", text).lower().replace("'", "")
    words = (_DIGIT_OF.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in _ARTICLES)
