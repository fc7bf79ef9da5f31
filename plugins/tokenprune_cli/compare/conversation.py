# SPDX-License-Identifier: Apache-2.0
"""The conversation track: tokens are chosen for the first question, later ones scored on what is left.

Later questions are asked in two ways. *Anew*: each on its own, of the picture's rows as the first question
left them in the cache, its words taken back. *Talking on*: in turn, on the whole cache, earlier questions and
the model's answers included, which asks more of a model than most small ones have learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

import tokenprune
from tokenprune_cli.compare.answers import Work
from tokenprune_cli.compare.dialogue import talk
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.question_set import QuestionSet, make_batch
from tokenprune_cli.compare.remembering import Choices, remembering
from tokenprune_cli.compare.tower import shared_tower
from tokenprune_cli.evaluation.answering import answer_batch
from tokenprune_cli.evaluation.settings import BASELINES, Setting

TRACK = "conversation"
TURNS = 4
PICTURES = 8  # conversations in a batch


def conversations(questions: QuestionSet, seed: int) -> list[tuple[int, ...]]:
    """Numbers of the questions of each picture that has two at least: up to four, in an order of chance."""
    by_picture: dict[int, list[int]] = {}
    for number, item in enumerate(questions.items):
        by_picture.setdefault(item.image, []).append(number)
    found = []
    for picture, numbers in by_picture.items():
        order = np.random.default_rng([seed, picture]).permutation(len(numbers))[:TURNS]
        if len(order) > 1:
            found.append(tuple(numbers[i] for i in order))
    return found


def later(questions: QuestionSet, seed: int) -> QuestionSet:
    """The later questions of all conversations, in order."""
    numbers = [number for one in conversations(questions, seed) for number in one[1:]]
    return replace(questions, items=tuple(questions.items[i] for i in numbers))


def n_batches(questions: QuestionSet, seed: int) -> int:
    """How many batches of conversations there are."""
    return -(-len(conversations(questions, seed)) // PICTURES)


def converse(
    model: Any, processor: Any, questions: QuestionSet, work: Work, number: int, settings: Sequence[Setting]
) -> Iterator[dict[str, Any]]:
    """Hold the conversations of batch `number` under each of some settings.

    Yields
    ------
    dict
        A line for the journal: `cell`, `batch` and `track`, and either `refused` or the answers to the later
        questions, `anew` and `talking`, conversation by conversation.
    """
    own = conversations(questions, work.seed)[number * PICTURES : (number + 1) * PICTURES]
    with shared_tower(model):
        anew = {s: _refusing(_ask_anew, model, processor, questions, work, own, s) for s in settings}
    talking: dict[Setting, list[str]] = {setting: [] for setting in settings}
    for one in own:
        with shared_tower(model):
            for setting in settings:
                if not isinstance(anew[setting], str):
                    talking[setting] += _talk_on(model, processor, questions, work, one, setting)
    for setting in settings:
        head = {"cell": key(setting), "batch": number, "track": TRACK}
        found = anew[setting]
        if isinstance(found, str):
            yield {**head, "refused": found}
        else:
            yield {**head, "anew": found, "talking": talking[setting]}


def _refusing(ask: Any, *arguments: Any) -> list[str] | str:
    """Answers, or why the model refuses."""
    try:
        found: list[str] = ask(*arguments)
    except tokenprune.TokenPruneError as error:
        return str(error)
    return found


def _ask_anew(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    work: Work,
    own: Sequence[tuple[int, ...]],
    setting: Setting,
) -> list[str]:
    """Ask all first questions together, then all second ones of what was kept, and so on."""
    applied, choices = _applied(model, setting, work.seed)
    turns: list[list[str]] = []
    with applied as handle:
        for turn in range(max(map(len, own))):
            numbers = [one[min(turn, len(one) - 1)] for one in own]  # who has no more repeats the last one
            batch = make_batch(processor, questions, [questions.items[i] for i in numbers])
            answers = answer_batch(model, processor, batch, handle, setting, work.max_new_tokens)
            turns.append([answer.text for answer in answers])
            choices.rewind()
    return [turns[turn][row] for row, one in enumerate(own) for turn in range(1, len(one))]


def _talk_on(
    model: Any, processor: Any, questions: QuestionSet, work: Work, one: tuple[int, ...], setting: Setting
) -> list[str]:
    items = [questions.items[i] for i in one]
    with setting.applied(model, work.seed):
        image = questions.open_image(items[0].image)
        texts = [item.question.text for item in items]
        return talk(model, processor, setting, image, texts, work.max_new_tokens)[1:]


def _applied(model: Any, setting: Setting, seed: int) -> tuple[AbstractContextManager[Any], Choices]:
    """The setting with a memory of what it chose; baselines without a choice need none."""
    if setting.method is None or setting.method in BASELINES:
        return setting.applied(model, seed), Choices()
    method = remembering(setting)
    options: dict[str, Any] = dict(setting.options)
    return tokenprune.apply(model, method=method, keep=setting.keep, seed=seed, **options), method.choices
