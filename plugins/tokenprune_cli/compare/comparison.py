# SPDX-License-Identifier: Apache-2.0
"""Comparing on one model from beginning to end: plan, answer what is missing, time, conclude."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenprune_cli.compare import conversation, timing
from tokenprune_cli.compare.answers import QUESTIONS, Progress, Work, n_batches
from tokenprune_cli.compare.collected import Collected, collect
from tokenprune_cli.compare.configuration import configuration, said
from tokenprune_cli.compare.conversation import TRACK
from tokenprune_cli.compare.journal import Journal
from tokenprune_cli.compare.plan import Plan, default_keeps, key, make_plan
from tokenprune_cli.compare.question_set import QuestionSet, check_questions, make_batch
from tokenprune_cli.compare.record import add_conversations, model_record
from tokenprune_cli.compare.workers import Source, answer_in_processes, answer_pending
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.evaluation.settings import Setting

ANSWERS, PICTURES = "answers.jsonl", "pictures"


@dataclass(frozen=True)
class Asked:
    """What is compared: methods, budgets (none: the usual ones), protocols, and whether to talk on.

    `processes` answer at once; everything is timed `repeats` times.
    """

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    protocols: tuple[str, ...]
    conversation: bool = False
    restart: bool = False
    processes: int = 1
    repeats: int = timing.REPEATS


@dataclass(frozen=True)
class Compared:
    """What came out: the record, all answers by setting, and where the pictures lie."""

    record: dict[str, Any]
    found: dict[str, Collected]
    pictures: Path


def compare(
    source: Source, questions: QuestionSet, work: Work, asked: Asked, folder: Path, progress: Progress
) -> Compared:
    """Compare on one model; what `folder` holds of an earlier run under the same configuration is used.

    Raises
    ------
    BadInputError
        When no method can be used on this model, or the folder is of another configuration.
    """
    pictures = folder / PICTURES
    work = replace(work, pictures=pictures)
    model, processor = source.load_model()
    check_questions(processor, questions)
    keeps = asked.keeps or tuple(default_keeps(_mean_tokens(model, processor, questions, work)))
    plan = make_plan(model, asked.methods, keeps, asked.protocols)
    for method in asked.methods:
        if method in plan.unavailable:
            raise BadInputError(plan.unavailable[method])
    about = configuration(source.model, model, processor, questions, work)
    journal = Journal(folder / ANSWERS, about, asked.restart)
    _answer_all(model, processor, source, questions, work, asked, plan, journal, progress)
    found = collect(journal.lines)
    _time(model, processor, questions, work, asked, plan, journal, found, progress)
    found = collect(journal.lines)
    record = model_record(plan, questions, found, model.config.text_config)
    if asked.conversation:
        add_conversations(record, questions, found, work.seed)
    record = {"name": about["model"], "configuration": about, **record}
    record["preprocessing"] = said(about, record["mean_visual_tokens"])
    return Compared(record, found, pictures)


def _answer_all(
    model: Any,
    processor: Any,
    source: Source,
    questions: QuestionSet,
    work: Work,
    asked: Asked,
    plan: Plan,
    journal: Journal,
    progress: Progress,
) -> None:
    done = {(line["cell"], line.get("track"), line["batch"]) for line in journal.lines if "batch" in line}
    batches = [(QUESTIONS, number) for number in range(n_batches(questions, work))]
    if asked.conversation:
        batches += [(TRACK, number) for number in range(conversation.n_batches(questions, work.seed))]
    pending: list[tuple[str, int, tuple[Setting, ...]]] = []
    for track, number in batches:
        missing = tuple(s for s in plan.settings if (key(s), track, number) not in done)
        pending += [(track, number, missing)] if missing else []
    total = len(batches) * len(plan.settings)
    count = total - sum(len(settings) for _, _, settings in pending)
    progress("answering", count, total)
    if asked.processes > 1 and len(pending) > 1:
        lines = answer_in_processes(source, work, pending, min(asked.processes, len(pending)))
    else:
        lines = answer_pending(model, processor, questions, work, pending)
    for line in lines:
        journal.append(line)
        count += 1
        progress("answering", count, total)


def _time(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    work: Work,
    asked: Asked,
    plan: Plan,
    journal: Journal,
    found: dict[str, Collected],
    progress: Progress,
) -> None:
    """Time all settings together if one of them was not timed: only figures of one run can be compared."""
    settings = [s for s in plan.settings if found[key(s)].refused is None]
    if all(found[key(s)].timing is not None for s in settings):
        return
    total, count = len(settings) * (1 + asked.repeats), 0

    def tick() -> None:
        nonlocal count
        count += 1
        progress("timing", count, total)

    measured_by_cell = timing.measure(model, processor, questions, settings, work.seed, asked.repeats, tick)
    for cell, measured in measured_by_cell.items():
        journal.append({"cell": cell, "timing": measured})


def _mean_tokens(model: Any, processor: Any, questions: QuestionSet, work: Work) -> float:
    """Visual tokens a picture, over the first batch."""
    batch = make_batch(processor, questions, questions.items[: work.batch])
    return float((batch["input_ids"] == model.config.image_token_id).sum() / len(batch["input_ids"]))
