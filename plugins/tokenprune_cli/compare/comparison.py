# SPDX-License-Identifier: Apache-2.0
"""Compare methods on one model: plan, answer what is missing, time, and make the record."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenprune_evaluation.configuration import configuration, describe_preprocessing
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.question_set import QuestionSet, check_questions
from tokenprune_evaluation.settings import Setting, key

from tokenprune_cli.compare import conversation, timing
from tokenprune_cli.compare.answers import QUESTIONS, AnswerOptions, Run
from tokenprune_cli.compare.certified import DELTA, certified_budgets, check_certifiable
from tokenprune_cli.compare.collected import SettingAnswers, collect
from tokenprune_cli.compare.plan import Plan, default_keeps, make_plan
from tokenprune_cli.compare.record import add_conversations, model_record
from tokenprune_cli.compare.workers import Source, answer_in_processes, answer_pending
from tokenprune_cli.console.failures import BadInputError

ANSWERS, PICTURES = "answers.jsonl", "pictures"


@dataclass(frozen=True)
class Request:
    """What to compare, on any model.

    Without `keeps` the budgets are shares of the model's visual tokens. `conversation` adds the conversation
    track, `restart` discards earlier answers. `processes` is the number of processes that answer, `repeats`
    how often each setting is timed. `certify` is the limit of the disagreement with the unpruned model.
    """

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    protocols: tuple[str, ...]
    conversation: bool = False
    restart: bool = False
    processes: int = 1
    repeats: int = timing.REPEATS
    certify: float | None = None


@dataclass(frozen=True)
class ModelResult:
    """The result on one model: its record, the answers by setting, and the directory of the pictures."""

    record: dict[str, Any]
    answers: dict[str, SettingAnswers]
    pictures: Path


def compare(
    source: Source,
    questions: QuestionSet,
    options: AnswerOptions,
    request: Request,
    folder: Path,
    progress: Progress,
) -> ModelResult:
    """Compare on one model; resumes from the answers of an earlier run in `folder`.

    Raises
    ------
    BadInputError
        When one of the requested methods cannot be used on this model, or the earlier run had another
        configuration.
    """
    pictures = folder / PICTURES
    run = Run(*source.load_model(), questions, replace(options, pictures=pictures))
    check_questions(run.processor, questions)
    keeps = request.keeps or default_keeps(_mean_tokens(run))
    plan = make_plan(run.model, request.methods, keeps, request.protocols)
    for method in request.methods:
        if method in plan.unavailable:
            raise BadInputError(plan.unavailable[method])
    if request.certify is not None:
        check_certifiable(request.certify, plan, questions)
    about = configuration(
        source.model,
        run.model,
        run.processor,
        questions,
        batch=options.batch,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    journal = Journal(folder / ANSWERS, about, request.restart)
    _answer(run, source, request, plan, journal, progress)
    _time(run, request.repeats, plan, journal, progress)
    answers = collect(journal.lines)
    record = model_record(plan, questions, answers, run.model.config.text_config)
    if request.conversation:
        add_conversations(record, questions, answers, options.seed)
    if request.certify is not None:
        entries = certified_budgets(record["lines"], questions, answers, request.certify, options.seed)
        record["certified"] = {"limit": request.certify, "confidence": 1 - DELTA, "methods": entries}
    record = {"name": about["model"], "configuration": about, **record}
    record["preprocessing"] = describe_preprocessing(about, record["mean_visual_tokens"])
    return ModelResult(record, answers, pictures)


def _answer(
    run: Run, source: Source, request: Request, plan: Plan, journal: Journal, progress: Progress
) -> None:
    """Answer what the journal lacks."""
    answered = {(line["cell"], line.get("track"), line["batch"]) for line in journal.lines if "batch" in line}
    batches = [(QUESTIONS, number) for number in range(run.n_batches)]
    if request.conversation:
        batches += [(conversation.TRACK, number) for number in range(conversation.n_batches(run))]
    pending: list[tuple[str, int, tuple[Setting, ...]]] = []
    for track, number in batches:
        missing = tuple(s for s in plan.settings if (key(s), track, number) not in answered)
        pending += [(track, number, missing)] if missing else []
    total = len(batches) * len(plan.settings)
    done = itertools.count(total - sum(len(settings) for _, _, settings in pending))
    progress("answering", next(done), total)
    if request.processes > 1 and len(pending) > 1:
        n_processes = min(request.processes, len(pending))
        lines = answer_in_processes(source, run.options, pending, n_processes)
    else:
        lines = answer_pending(run, pending)
    for line in lines:
        journal.append(line)
        progress("answering", next(done), total)


def _time(run: Run, repeats: int, plan: Plan, journal: Journal, progress: Progress) -> None:
    """Time all settings together unless all are timed: only times of the same run can be compared."""
    answers = collect(journal.lines)
    settings = [s for s in plan.settings if answers[key(s)].refused is None]
    if any(answers[key(s)].timing is None for s in settings):
        for cell, measured in timing.measure(run, settings, repeats, progress).items():
            journal.append({"cell": cell, "timing": measured})


def _mean_tokens(run: Run) -> float:
    """Return the mean number of visual tokens per question of the first batch."""
    numbers = range(len(run.questions.items))[: run.options.batch]
    ids = run.questions.inputs(run.processor, numbers)["input_ids"]
    return float((ids == run.model.config.image_token_id).sum() / len(ids))
