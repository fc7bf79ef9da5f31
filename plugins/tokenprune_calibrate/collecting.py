# SPDX-License-Identifier: Apache-2.0
"""Collect the losses: batch after batch in a resumable journal, which may be without texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tokenprune_adapters.loading import first_line
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import Setting, key
from tokenprune_evaluation.shared_tower import shared_tower

import tokenprune

from .answering import answer_again, answer_pruned, answer_unpruned
from .goal import Goal
from .losses import DIVERGENCE, Answer, loss_of
from .sample import Sample

FLOOR_QUESTIONS = 200  # that the unpruned model answers twice
Line = dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """A model, its processor, its questions, and the options for answering them."""

    model: Any
    processor: Any
    questions: QuestionSet
    batch: int
    max_new_tokens: int
    seed: int = 0
    redact: bool = False


def collect(
    traffic: Traffic,
    goal: Goal,
    sample: Sample,
    settings: Sequence[Setting],
    journal: Journal,
    progress: Progress,
    enough: Callable[[Sequence[Line]], bool],
) -> list[Line]:
    """Answer what the journal lacks and return its lines in the order of the batches.

    A line has the number of its `batch`, its `units` (numbers of questions), and by setting the `losses` of
    the questions, flat; unless redacted also `unpruned`, the answers, and by setting the `answers`.

    Parameters
    ----------
    enough
        Called with all lines after each batch; True ends the collection.
    """
    batches = sample.batches(traffic.batch)
    lines = {line["batch"]: line for line in journal.lines if "batch" in line}
    collected: list[Line] = []
    for number, units in enumerate(batches):
        progress("answering", number, len(batches))
        if number not in lines:
            line = {"batch": number, "units": units, **_answer(traffic, goal, units, settings)}
            journal.append(line)
            lines[number] = line
        collected.append(lines[number])
        if enough(collected):
            break
    progress("answering", len(batches), len(batches))
    return collected


def floor(
    traffic: Traffic, goal: Goal, sample: Sample, journal: Journal, progress: Progress
) -> tuple[float, int]:
    """Return the mean loss of the unpruned model against itself in other batches, and on how many questions.

    In the journal a line has the number of the batch as `floor`, and the `losses`.
    """
    batches = sample.batches(traffic.batch)
    lines = {line["floor"]: line for line in journal.lines if "floor" in line}
    losses: list[float] = []
    for number, units in enumerate(batches):
        if len(losses) >= FLOOR_QUESTIONS:
            break
        progress("noise floor", len(losses), min(FLOOR_QUESTIONS, sum(map(len, sample.units))))
        if number not in lines:
            lines[number] = {"floor": number, "losses": list(_floor_losses(traffic, goal, units))}
            journal.append(lines[number])
        losses += lines[number]["losses"]
    progress("noise floor", 1, 1)
    return sum(losses) / len(losses), len(losses)


def _answer(
    traffic: Traffic, goal: Goal, units: Sequence[tuple[int, ...]], settings: Sequence[Setting]
) -> Line:
    numbers = [number for unit in units for number in unit]
    items = [traffic.questions.items[number] for number in numbers]
    batch = traffic.questions.inputs(traffic.processor, numbers)
    losses: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    with shared_tower(traffic.model):
        with _named(traffic, numbers):
            reference = answer_unpruned(
                traffic.model, traffic.processor, batch, traffic.max_new_tokens, goal.loss == DIVERGENCE
            )
        for setting in settings:
            try:
                answers = answer_pruned(
                    traffic.model, traffic.processor, batch, setting, reference,
                    traffic.max_new_tokens, traffic.seed,
                )  # fmt: skip
            except tokenprune.TokenPruneError as error:
                raise BadInputError(f"the setting '{setting.label}' cannot answer: {error}") from None
            pairs = zip(items, reference.answers, answers, strict=True)
            losses[key(setting)] = [round(loss_of(goal.loss, *pair), 9) for pair in pairs]
            texts[key(setting)] = [answer.text for answer in answers]
    if traffic.redact:
        return {"losses": losses}
    unpruned = [answer.text for answer in reference.answers]
    return {"losses": losses, "unpruned": unpruned, "answers": texts}


def _floor_losses(traffic: Traffic, goal: Goal, units: Sequence[tuple[int, ...]]) -> Iterator[float]:
    """Yield the losses of a batch that is answered again in halves, or of a single question as a pair."""
    numbers = [number for unit in units for number in unit]
    items = [traffic.questions.items[number] for number in numbers]
    if len(numbers) == 1:
        numbers *= 2
        halves = [numbers]
    else:
        halves = [numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]]
    inputs = [traffic.questions.inputs(traffic.processor, half) for half in halves]
    with _named(traffic, numbers):
        model, length = traffic.model, traffic.max_new_tokens
        whole = traffic.questions.inputs(traffic.processor, numbers[: len(items)])
        reference = answer_unpruned(model, traffic.processor, whole, length, goal.loss == DIVERGENCE)
        if len(items) < len(numbers):
            reference = reference.repeated(len(numbers))
        again: list[Answer] = answer_again(model, traffic.processor, inputs, reference, length)
    for item, first, second in zip(items, reference.answers, again, strict=False):
        yield round(loss_of(goal.loss, item, first, second), 9)


@contextmanager
def _named(traffic: Traffic, numbers: Sequence[int]) -> Iterator[None]:
    """Name the requests that the unpruned model cannot answer."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        items = [traffic.questions.items[number] for number in dict.fromkeys(numbers)]
        places = ", ".join(
            item.where or f"question {number}" for item, number in zip(items, numbers, strict=False)
        )
        raise BadInputError(
            f"the unpruned model cannot answer {places}: {first_line(error)}; leave the request out"
        ) from error
