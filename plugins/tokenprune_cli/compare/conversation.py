# SPDX-License-Identifier: Apache-2.0
"""The conversation track: tokens are selected for the first question, later ones use what is left.

Later questions are asked in two ways. *Anew*: each on its own, on the picture's rows that the first question
left in the cache, without its words. *Talking*: in turn, on the whole cache including earlier questions and
the model's answers, which requires more of a model than most small ones have learned.

In *anew* the cache is not reused. The picture comes before the question and attention is causal: if the same
tokens are dropped before the same layers, the picture's rows in the cache do not depend on the words that
follow. So each later question is a run of its own with the selections of the first question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.named_methods import method_named
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import BASELINES, Setting, key
from tokenprune_evaluation.shared_tower import shared_tower

import tokenprune
from tokenprune_cli.compare.answers import Run
from tokenprune_cli.compare.dialogue import talk

TRACK = "conversation"
TURNS = 4
PICTURES = 8  # conversations in a batch


def conversations(questions: QuestionSet, seed: int) -> list[tuple[int, ...]]:
    """Return up to four question numbers in random order for each picture with at least two questions."""
    by_picture: dict[int, list[int]] = {}
    for number, item in enumerate(questions.items):
        by_picture.setdefault(item.image, []).append(number)
    held = []
    for picture, numbers in by_picture.items():
        order = np.random.default_rng([seed, picture]).permutation(len(numbers))[:TURNS]
        if len(order) > 1:
            held.append(tuple(numbers[i] for i in order))
    return held


def later(questions: QuestionSet, seed: int) -> QuestionSet:
    """Return the later questions of all conversations, in order."""
    items = [questions.items[i] for numbers in conversations(questions, seed) for i in numbers[1:]]
    return dataclasses.replace(questions, items=tuple(items))


def n_batches(run: Run) -> int:
    """Return the number of batches of conversations."""
    return -(-len(conversations(run.questions, run.options.seed)) // PICTURES)


def converse(run: Run, number: int, settings: Sequence[Setting]) -> Iterator[dict[str, Any]]:
    """Hold the conversations of batch `number` under each of the settings.

    Yields
    ------
    dict
        A line for the journal: `cell`, `batch` and `track`, and either `refused` or the answers to the later
        questions, `anew` and `talking`, conversation by conversation.
    """
    held = conversations(run.questions, run.options.seed)[number * PICTURES : (number + 1) * PICTURES]
    lines = {setting: {"cell": key(setting), "batch": number, "track": TRACK} for setting in settings}
    anew: dict[Setting, list[str]] = {}
    with shared_tower(run.model):
        for setting, line in lines.items():
            try:
                anew[setting] = ask_anew(run, held, setting)
            except tokenprune.TokenPruneError as error:
                yield {**line, "refused": str(error)}
    talking: dict[Setting, list[str]] = {setting: [] for setting in anew}
    for numbers in held:
        with shared_tower(run.model):
            for setting, answers in talking.items():
                answers += talk(run, setting, numbers)[1:]
    for setting in anew:
        yield {**lines[setting], "anew": anew[setting], "talking": talking[setting]}


def ask_anew(run: Run, held: Sequence[tuple[int, ...]], setting: Setting) -> list[str]:
    """Ask all first questions in a batch, then all second ones with the same selections, and so on."""
    applied, selections = apply_replayed(run, setting)
    turns: list[list[str]] = []
    with applied as handle:
        for turn in range(max(map(len, held))):
            current = [numbers[min(turn, len(numbers) - 1)] for numbers in held]  # the last one is repeated
            batch = run.questions.inputs(run.processor, current)
            answers = answer_batch(
                run.model, run.processor, batch, handle, setting, run.options.max_new_tokens
            )
            turns.append([answer.text for answer in answers])
            selections.replay()
    return [turns[turn][row] for row, numbers in enumerate(held) for turn in range(1, len(numbers))]


@dataclass
class Selections:
    """Selections in the order in which they were made; after `replay()` they are repeated in that order."""

    made: list[tokenprune.Selection] = field(default_factory=list)
    repeated: Iterator[tokenprune.Selection] | None = None

    def replay(self) -> None:
        """Repeat the selections from the first one on."""
        self.repeated = iter(self.made)


@dataclass(frozen=True)
class ReplayedMethod(tokenprune.Method):
    """Any method, with stored selections."""

    selections: Selections = field(default_factory=Selections, compare=False)

    def select(
        self, tokens: tokenprune.VisualTokens, keep: int | tokenprune.Budget, *, layer: int | None = None
    ) -> tokenprune.Selection:
        """Select and store the selection, or repeat the one that was made here before."""
        if self.selections.repeated is not None:
            return next(self.selections.repeated)
        self.selections.made.append(super().select(tokens, keep, layer=layer))
        return self.selections.made[-1]


def apply_replayed(run: Run, setting: Setting) -> tuple[AbstractContextManager[Any], Selections]:
    """Return the setting's context manager for the model, and the selections made inside it.

    The unpruned model and the baselines make no selections.
    """
    if setting.method is None or setting.method in BASELINES:
        return setting.applied(run.model, run.options.seed), Selections()
    method = method_named(setting.method)
    if method.trim_early_cache:
        raise tokenprune.IncompatibleError(
            f"method {method.name!r} trims the caches of early layers after the first question, and a later "
            "one asked anew would see there what it dropped; its conversations cannot be compared"
        )
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(tokenprune.Method)}
    replayed, seed = ReplayedMethod(**fields), run.options.seed
    options = dict[str, Any](setting.options)
    applied = tokenprune.apply(run.model, method=replayed, keep=setting.keep, seed=seed, **options)
    return applied, replayed.selections
