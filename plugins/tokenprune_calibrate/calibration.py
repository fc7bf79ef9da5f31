# SPDX-License-Identifier: Apache-2.0
"""Calibrate: answer requests unpruned and under settings, and certify the cheapest whose risk is small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenprune_evaluation.configuration import configuration
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.files import make_directory
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.named_methods import name_and_options, text_of
from tokenprune_evaluation.progress import Progress, silent
from tokenprune_evaluation.question_set import QuestionSet, check_questions
from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.settings import Setting, key

from tokenprune import CalibratedSetting, Cover
from tokenprune.setting import ADVICE

from .collecting import Line, Traffic, collect, floor
from .costs import FLOPS, SECONDS, costs_of
from .goal import Goal
from .ladders import make_ladders
from .losses import DROP
from .record import CalibrationRecord, RungRecord
from .sample import Sample
from .verdict import Verdict, amount

JOURNAL, RECORD, SETTING, PAGE = "answers.jsonl", "calibration.json", "setting.json", "calibration.html"
FILES = (JOURNAL, RECORD, SETTING, PAGE)


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
    traffic: Traffic,
    goal: Goal,
    output: Path,
    *,
    methods: Sequence[str] = (),
    keeps: Sequence[int | Cover] = (),
    in_seconds: bool = False,
    restart: bool = False,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Certify the cheapest setting whose risk on requests like these is at most the goal's limit.

    Parameters
    ----------
    traffic
        The model, and a sample of its requests, exchangeable with those to come.
    goal
        What is to be certified.
    output
        Directory of the journal `answers.jsonl`, from which an interrupted calibration resumes; `restart`
        discards it.
    methods, keeps
        The settings, decided before data are seen; see `make_ladders`.
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
    model, questions = traffic.model, traffic.questions
    check_questions(traffic.processor, questions)
    _check_references(questions, goal)
    sample = Sample.draw(questions, goal)
    numbers = [number for unit in sample.units for number in unit]
    ladders = make_ladders(model, methods, keeps, _mean_tokens(traffic, numbers[: traffic.batch]))
    verdict = Verdict.prepare(goal, sample, questions.metrics, ladders)
    _check_pictures(questions)
    make_directory(output)
    announce(verdict.announcement(output / JOURNAL))
    settings = [rung for ladder in ladders for rung in ladder.rungs]
    about = configuration(
        traffic.name, model, traffic.processor, questions,
        goal=asdict(goal), settings=[key(setting) for setting in settings], **traffic.options,
    )  # fmt: skip
    journal = Journal(output / JOURNAL, about, restart, "tokenprune calibrate")
    noise, n_answered = floor(traffic, goal, sample, journal, progress)
    if noise >= goal.limit:
        raise BadInputError(
            f"the unpruned model's {goal.loss} with itself, in other batches, is {noise:.2%} on {n_answered} "
            f"questions; no limit as low as {goal.limit:.2%} can be certified. Choose a limit above it, or "
            "float32"
        )
    lines = collect(traffic, goal, sample, settings, journal, progress, verdict.is_decided)
    costs = costs_of(traffic, numbers, settings, in_seconds, progress)
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
        is_redacted=traffic.redact,
    )
    rung = record.chosen_rung()
    certified = None if chosen is None or rung is None else _certified(traffic, chosen, rung, record)
    return Calibration(record, certified, lines, chosen or settings[0])


def verify(traffic: Traffic, setting: CalibratedSetting, output: Path, **options: Any) -> Calibration:
    """Test a calibrated setting again on new requests, alone, with the goal that it was certified for.

    The answers' maximum length and the seed of its method are those of the setting, whatever `traffic` has.

    Parameters
    ----------
    options
        `in_seconds`, `restart`, `progress` and `announce`, as for `calibrate`.

    Raises
    ------
    BadInputError
        As `calibrate` does, and for a setting without a certificate.
    InputError
        If it is the setting of another model.
    """
    setting.check(traffic.model)
    arguments = setting.arguments
    try:
        keep = Cover(**arguments["cover"]) if "cover" in arguments else arguments["keep"]
        method = text_of(arguments["method"], arguments.get("options", {}))
        length, seed = setting.certificate["max_new_tokens"], arguments["seed"]
    except KeyError as error:
        raise BadInputError(f"the setting has no {error}; {ADVICE}") from None
    traffic = replace(traffic, max_new_tokens=length, seed=seed)
    goal = certified_goal(setting)
    return calibrate(traffic, goal, output, methods=[method], keeps=[keep], **options)


def certified_goal(setting: CalibratedSetting) -> Goal:
    """Return the goal that a setting was certified for; raise BadInputError if it names none."""
    try:
        return Goal(**setting.certificate["goal"])
    except (KeyError, TypeError):
        raise BadInputError(f"the setting names no goal that it was certified for; {ADVICE}") from None


def _certified(
    traffic: Traffic, chosen: Setting, rung: RungRecord, record: CalibrationRecord
) -> CalibratedSetting:
    budget = {"keep": chosen.keep} if chosen.rule is None else {"cover": asdict(chosen.rule)}
    architecture = type(traffic.model).__name__
    method, options = name_and_options(str(chosen.method))
    return CalibratedSetting(
        arguments={"method": method, "options": options, **budget, "seed": traffic.seed},
        model={"name": record.model, "architecture": architecture, "weights": record.weights},
        certificate={
            "goal": record.goal,
            "test": record.test,
            "units": rung.n,
            "mean_loss": rung.mean_loss,
            "upper_bound": rung.upper_bound,
            "cost": {record.cost_unit: rung.cost},
            "max_new_tokens": traffic.max_new_tokens,
        },
        versions=record.versions,
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


def _mean_tokens(traffic: Traffic, numbers: Sequence[int]) -> float:
    ids = traffic.questions.inputs(traffic.processor, numbers)["input_ids"]
    return float((ids == traffic.model.config.image_token_id).sum() / len(ids))
