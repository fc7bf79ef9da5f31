# SPDX-License-Identifier: Apache-2.0
"""Calibrate: answer requests unpruned and under settings, and certify the cheapest whose risk is small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenprune_evaluation.configuration import configuration
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.files import make_directory
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.progress import Progress, silent
from tokenprune_evaluation.question_set import QuestionSet, check_questions
from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.settings import Setting, key

from tokenprune import CalibratedSetting, Cover

from .collecting import Line, Traffic, collect, floor
from .costs import FLOPS, SECONDS, costs_of
from .goal import Goal
from .ladders import make_ladders
from .losses import DROP
from .record import CalibrationRecord
from .sample import Sample
from .verdict import Verdict, amount

JOURNAL, RECORD, SETTING, PAGE = "answers.jsonl", "calibration.json", "setting.json", "calibration.html"
FILES = (JOURNAL, RECORD, SETTING, PAGE)
PACKAGES = ("tokenprune-vlm", "torch", "transformers")


@dataclass(frozen=True)
class Calibration:
    """The record, the certified setting (None: none), the journal's lines, and a setting for examples.

    `example` is the certified setting, or the most careful one of the first method.
    """

    record: CalibrationRecord
    setting: CalibratedSetting | None
    lines: list[Line]
    example: Setting


def calibrate(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    goal: Goal,
    *,
    output: Path,
    name: str | None = None,
    methods: Sequence[str] = (),
    keeps: Sequence[int | Cover] = (),
    batch: int = 16,
    max_new_tokens: int = 16,
    seed: int = 0,
    in_seconds: bool = False,
    redact: bool = False,
    restart: bool = False,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Certify the cheapest setting whose risk on requests like these is at most the goal's limit.

    Parameters
    ----------
    model, processor
        As `from_pretrained` returns them.
    questions
        The requests; exchangeable with those to come.
    goal
        What is to be certified.
    output
        Directory of the journal `answers.jsonl`, which holds the requests' answers unless `redact`, and from
        which an interrupted calibration resumes; `restart` discards it.
    name
        The model as the user named it; None: the embedded model.
    methods, keeps
        The settings, decided before data are seen; see `make_ladders`.
    batch, max_new_tokens
        Questions answered at once, and the maximum length of an answer in tokens.
    seed
        Of methods that draw random numbers.
    in_seconds
        Measure costs as time; otherwise they are operations.
    announce
        Called once before any work, with a sentence that says how many pictures the goal takes at least, and
        where answers are written.

    Raises
    ------
    BadInputError
        If the sample is too small for the goal, the limit is below the noise floor, requests cannot be
        answered, or the model does not support a setting.
    """
    check_questions(processor, questions)
    _check_references(questions, goal)
    sample = Sample.draw(questions, goal)
    numbers = [number for unit in sample.units for number in unit]
    ladders = make_ladders(model, methods, keeps, _mean_tokens(model, processor, questions, numbers[:batch]))
    verdict = Verdict.prepare(goal, sample, questions.metrics, ladders)
    _check_pictures(questions)
    make_directory(output)
    announce(verdict.announcement(len(sample), output / JOURNAL))
    settings = [rung for ladder in ladders for rung in ladder.rungs]
    about = configuration(
        name, model, processor, questions, goal=asdict(goal), settings=[key(s) for s in settings],
        batch=batch, max_new_tokens=max_new_tokens, seed=seed, redact=redact,
    )  # fmt: skip
    journal = Journal(output / JOURNAL, about, restart)
    traffic = Traffic(model, processor, questions, batch, max_new_tokens, seed, redact)
    noise, n_answered = floor(traffic, goal, sample, journal, progress)
    if noise >= goal.limit:
        raise BadInputError(
            f"the unpruned model's {goal.loss} with itself, in other batches, is {noise:.2%} on {n_answered} "
            f"questions; no limit as low as {goal.limit:.2%} can be certified. Choose a limit above it, or "
            "float32"
        )
    lines = collect(traffic, goal, sample, settings, journal, progress, verdict.is_decided)
    costs = costs_of(model, processor, questions, numbers, settings, seed, in_seconds, progress)
    ladder_records, chosen = verdict.ladders(lines, costs)
    record = CalibrationRecord(
        **vars(Provenance.here(model.device)),
        model=about["model"],
        weights=about["weights"],
        questions=questions.name,
        pictures=questions.n_images,
        goal=asdict(goal),
        test=verdict.test,
        units=sum(len(line["units"]) for line in lines),
        fewest=verdict.fewest,
        noise_floor=noise,
        cost_unit=SECONDS if in_seconds else FLOPS,
        ladders=ladder_records,
        chosen=None if chosen is None else {"method": chosen.method, "keep": amount(chosen)},
        best_upper_bound=min(rung.upper_bound for ladder in ladder_records for rung in ladder.rungs),
        is_redacted=redact,
    )
    setting = None if chosen is None else _setting(model, chosen, record, seed, max_new_tokens)
    return Calibration(record, setting, lines, chosen or settings[0])


def verify(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    setting: CalibratedSetting,
    *,
    output: Path,
    name: str | None = None,
    batch: int = 16,
    max_new_tokens: int = 16,
    redact: bool = False,
    restart: bool = False,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Test a calibrated setting again on new requests, alone, with the loss, limit and confidence it names.

    Raises
    ------
    BadInputError
        As `calibrate` does.
    InputError
        If it is the setting of another model.
    """
    setting.check(model)
    goal = Goal(**setting.certificate["goal"])
    arguments = setting.arguments
    keep = Cover(**arguments["cover"]) if "cover" in arguments else arguments["keep"]
    return calibrate(
        model, processor, questions, goal, output=output, name=name, methods=[arguments["method"]],
        keeps=[keep], batch=batch, max_new_tokens=max_new_tokens, seed=arguments["seed"],
        redact=redact, restart=restart, progress=progress, announce=announce,
    )  # fmt: skip


def _setting(
    model: Any, chosen: Setting, record: CalibrationRecord, seed: int, max_new_tokens: int
) -> CalibratedSetting:
    rung = record.chosen_rung()
    if rung is None:
        raise ValueError("the record has no certified setting")
    budget = {"keep": chosen.keep} if chosen.rule is None else {"cover": asdict(chosen.rule)}
    return CalibratedSetting(
        arguments={"method": chosen.method, "options": {}, **budget, "seed": seed},
        model={"name": record.model, "architecture": type(model).__name__, "weights": record.weights},
        certificate={
            "goal": record.goal,
            "test": record.test,
            "units": rung.n,
            "mean_loss": rung.mean_loss,
            "upper_bound": rung.upper_bound,
            "cost": {record.cost_unit: rung.cost},
            "max_new_tokens": max_new_tokens,
        },
        versions={package: version(package) for package in PACKAGES},
    )


def _check_references(questions: QuestionSet, goal: Goal) -> None:
    lacking = [item.where for item in questions.items if not item.answers]
    if goal.loss == DROP and lacking:
        raise BadInputError(
            f"the loss '{DROP}' needs right answers, and {len(lacking)} requests have none, the first in "
            f"{lacking[0]}; add 'answer' or 'answers', or take another loss"
        )


def _check_pictures(questions: QuestionSet) -> None:
    """Open every picture, so that a damaged one is refused before any work."""
    for picture in dict.fromkeys(item.image for item in questions.items):
        questions.open_image(picture)


def _mean_tokens(model: Any, processor: Any, questions: QuestionSet, numbers: Sequence[int]) -> float:
    ids = questions.inputs(processor, numbers)["input_ids"]
    return float((ids == model.config.image_token_id).sum() / len(ids))
