# SPDX-License-Identifier: Apache-2.0
"""Right or wrong: exact match, yes and no as POPE counts them, accuracy as VQAv2 counts it. Text only.

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
_NEEDED = 3  # people who must agree with an answer to make it fully right


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer is one of those accepted; case, and white space around it, do not count."""
    return float(answer.strip().casefold() in {text.strip().casefold() for text in accepted})


def yes_or_no(answer: str) -> str:
    """What a free answer means, as POPE's script reads it: no if its first sentence has "no" or "not"."""
    first = answer.strip().split(".")[0].replace(",", "")
    return NO if {"No", "no", "not"} & set(first.split()) else YES


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """How far people agree with an answer: min(1, others who gave it / 3), averaged over leaving each out.

    With ten people: 0.3 where one gave it, 0.6, 0.9, 1 from four on. With fewer than four, all the others
    must agree with it; with a single one it is 1 or 0.

    Parameters
    ----------
    answer
        The model's.
    given
        One answer a person.

    Raises
    ------
    ValueError
        When nobody gave an answer.
    """
    if not given:
        raise ValueError("accuracy needs at least one given answer")
    said, people = vqa_normal(answer), [vqa_normal(text) for text in given]
    if len(people) == 1:
        return float(said == people[0])
    agree = people.count(said)
    needed = min(_NEEDED, len(people) - 1)
    scores = [min(1.0, (agree - (person == said)) / needed) for person in people]
    return sum(scores) / len(scores)


def vqa_normal(text: str) -> str:
    """Write an answer as the VQA script does: lower case, digits, no articles, hardly any punctuation.

    Apostrophes are left out on both sides; the script puts them back where they are missing.
    """
    text = re.sub(r"\s+", " ", text).strip()
    joined = re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in f"{text} " or f" {mark}" in f" {text}"
        text = text.replace(mark, "" if joined or beside_space else " ")
    text = re.sub(r"\.(?!\d)", "", text).lower().replace("'", "")
    words = (_DIGIT_OF.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in _ARTICLES)
