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
from .losses import DIVERGENCE, loss_of
from .sample import Sample

FLOOR_QUESTIONS = 200  # that the unpruned model answers twice
Line = dict[str, Any]


@dataclass(frozen=True)
class Traffic:
    """A model, its processor, the questions that are put to it, and the options for answering them.

    Parameters
    ----------
    model, processor
        As `from_pretrained` returns them.
    name
        The model as the user named it; None: the embedded model.
    batch, max_new_tokens
        Questions answered at once, and the maximum length of an answer in tokens.
    seed
        Of methods that draw random numbers.
    redact
        Keep losses and numbers of questions only, no answers.
    """

    model: Any
    processor: Any
    questions: QuestionSet
    name: str | None = None
    batch: int = 16
    max_new_tokens: int = 16
    seed: int = 0
    redact: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The options, by name."""
        return {name: getattr(self, name) for name in ("batch", "max_new_tokens", "seed", "redact")}


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
    n_needed = min(FLOOR_QUESTIONS, sum(map(len, sample.units)))
    losses: list[float] = []
    for number, units in enumerate(batches):
        if len(losses) >= n_needed:
            break
        progress("noise floor", len(losses), n_needed)
        if number not in lines:
            lines[number] = {"floor": number, "losses": list(_floor_losses(traffic, goal, units))}
            journal.append(lines[number])
        losses += lines[number]["losses"]
    progress("noise floor", n_needed, n_needed)
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
    n, model, processor = len(numbers), traffic.model, traffic.processor
    batch = traffic.questions.inputs(processor, numbers)
    others = [numbers * 2] if n == 1 else [numbers[: n // 2], numbers[n // 2 :]]
    length = traffic.max_new_tokens
    with _named(traffic, numbers):
        reference = answer_unpruned(model, processor, batch, length, goal.loss == DIVERGENCE)
        whole = reference.repeated(2) if n == 1 else reference
        inputs = [traffic.questions.inputs(processor, other) for other in others]
        again = answer_again(model, processor, inputs, whole, length)
    for number, first, second in zip(numbers, reference.answers, again, strict=False):  # a pair has two
        yield round(loss_of(goal.loss, traffic.questions.items[number], first, second), 9)


@contextmanager
def _named(traffic: Traffic, numbers: Sequence[int]) -> Iterator[None]:
    """Name the requests that the unpruned model cannot answer."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        where = {number: traffic.questions.items[number].where for number in numbers}
        places = ", ".join(place or f"question {number}" for number, place in where.items())
        raise BadInputError(
            f"the unpruned model cannot answer {places}: {first_line(error)}; leave the request out"
        ) from error
