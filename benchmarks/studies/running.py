# SPDX-License-Identifier: Apache-2.0
"""Run a study: validate it first, compare rankings, then answer under every variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from tokenprune_cli.compare.scoring import Scores
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.shared_tower import shared_tower

import tokenprune
from benchmarks.studies.rankings import check_scorers, compared
from benchmarks.studies.study import UNPRUNED, Plan, Study, Variant

Cell = tuple[str, float | None]  # a variant's name, and the share it keeps
Progress = Callable[[str, int, int], None]
BATCH = 64  # questions answered at once


def run_study(
    study: Study,
    model: Any,
    processor: Any,
    questions: QuestionSet,
    *,
    max_new_tokens: int = 8,
    batch: int = BATCH,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Run one study on one model and return its results as plain data.

    Parameters
    ----------
    questions
        Questions with a single metric. Rankings are compared on their images.
    progress
        Called with the current step, the number of finished items, and the total.

    Raises
    ------
    IncompatibleError
        Before anything runs, if the study is not possible on this model.
    """
    if len(questions.metrics) != 1:
        raise tokenprune.IncompatibleError(
            f"the questions of a study must share one metric, got {', '.join(questions.metrics)}"
        )
    plan = study.plan(model)
    check_scorers(model, plan)
    for variant in plan.variants:
        for share in plan.shares:
            with variant.applied(model, share):
                pass
    pairs: list[dict[str, Any]] = []
    if plan.pairs:
        pairs = compared(model, processor, questions, plan, lambda i, n: progress("ranking", i, n))
    cells: list[dict[str, Any]] = []
    if plan.variants:
        answers, kept = _answers(plan, model, processor, questions, max_new_tokens, batch, progress)
        cells = _cells(plan, questions, answers, kept)
    return {
        "study": study.name,
        "questions": {
            "name": questions.name,
            "count": len(questions.items),
            "pictures": questions.n_images,
            "metric": questions.metrics[0],
        },
        "base": plan.base,
        "cells": cells,
        "rankings": pairs,
    }


def _answers(
    plan: Plan,
    model: Any,
    processor: Any,
    questions: QuestionSet,
    max_new_tokens: int,
    size: int,
    progress: Progress,
) -> tuple[dict[Cell, list[str]], dict[Cell, list[int]]]:
    """Return the answers of every variant at every share, and the number of visual tokens kept."""
    wanted: list[tuple[Variant, float]] = [(v, share) for share in plan.shares for v in plan.variants]
    answers: dict[Cell, list[str]] = {(UNPRUNED, None): []} | {(v.name, share): [] for v, share in wanted}
    kept: dict[Cell, list[int]] = {cell: [] for cell in answers}
    numbers = range(len(questions.items))
    starts = numbers[::size]
    done, total = 0, len(starts) * len(answers)

    def store(cell: Cell, batch_answers: Sequence[Any]) -> None:
        nonlocal done
        answers[cell] += [answer.text for answer in batch_answers]
        kept[cell] += [answer.n_visual for answer in batch_answers]
        done += 1
        progress("answering", done, total)

    for start in starts:
        batch = questions.inputs(processor, numbers[start : start + size])
        with shared_tower(model):
            with plan.watch.listening() if plan.watch else nullcontext():
                batch_answers = answer_batch(model, processor, batch, max_new_tokens=max_new_tokens)
            store((UNPRUNED, None), batch_answers)
            for variant, share in wanted:
                with variant.applied(model, share) as handle:
                    batch_answers = answer_batch(
                        model, processor, batch, handle, max_new_tokens=max_new_tokens
                    )
                store((variant.name, share), batch_answers)
    return answers, kept


def _cells(
    plan: Plan,
    questions: QuestionSet,
    answers: Mapping[Cell, Sequence[str]],
    kept: Mapping[Cell, Sequence[int]],
) -> list[dict[str, Any]]:
    """Return each variant's score with a 95 % interval, and its difference to the base at the same share."""
    scores, (metric,) = Scores(questions, answers), questions.metrics
    entries = []
    for name, share in answers:
        gap = None
        if share is not None and name != plan.base:
            gap = scores.interval((name, share), metric, above=(plan.base, share)).rounded()
        entries.append(
            {
                "variant": name,
                "share": share,
                "kept": round(sum(kept[name, share]) / len(questions.items), 2),
                "score": scores.interval((name, share), metric).rounded(),
                "above_base": gap,
            }
        )
    return entries
