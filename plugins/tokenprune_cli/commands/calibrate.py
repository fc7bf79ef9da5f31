# SPDX-License-Identifier: Apache-2.0
"""`tokenprune calibrate`: certify the cheapest setting whose risk on your requests is at most a limit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.files import check_folder, make_directory, write_text

from tokenprune_cli.console import options
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision, load_model

if TYPE_CHECKING:
    from tokenprune_calibrate.calibration import Calibration
    from tokenprune_calibrate.collecting import Traffic
    from tokenprune_calibrate.goal import Goal
    from tokenprune_calibrate.record import CalibrationRecord
    from tokenprune_evaluation.question_set import QuestionSet

Limit = Annotated[float | None, typer.Option(metavar="RISK", help="Certify this limit, above 0 and below 1.")]


def calibrate(
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines with image, question, and answer(s) for --max-drop (default: embedded scenes).",
        ),
    ] = None,
    max_disagreement: Limit = None,
    max_drop: Limit = None,
    max_divergence: Limit = None,
    confidence: Annotated[
        float | None, typer.Option(help="Confidence of the certificate (default 0.95).")
    ] = None,
    model: options.ModelName = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            help="Only this method, with options as in zoo-prune,n_directions=16; may be repeated.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", "--budgets", help="Only this budget, or cover:RADIUS; may be repeated.", metavar="N"
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="picture (default), or question: one of each picture.")
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop when the answer cannot change; wider bounds.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(help="Test this setting file again, on new requests.", metavar="FILE")
    ] = None,
    in_seconds: Annotated[bool, typer.Option("--measure", help="Costs in time, not operations.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Write losses only: no questions, answers or pictures.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Directory for the results.", metavar="DIR")] = Path(
        "calibrate-output"
    ),
    restart: Annotated[bool, typer.Option("--restart", help="Discard earlier answers in DIR.")] = False,
    metric: options.Metric = None,
    scenes: options.Scenes = None,
    batch: options.Batch = 16,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum length of answers, in tokens (default 16).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="Seed of samples and methods (default 0).", metavar="N"),
    ] = None,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.OnlyJson = False,
) -> None:
    """Certify the cheapest setting whose risk on requests like yours is at most a limit."""
    limits = {"disagreement": max_disagreement, "drop": max_drop, "divergence": max_divergence}
    with plain_errors(), quietly():
        from tokenprune_calibrate.calibration import FILES, calibrate, certified_goal
        from tokenprune_calibrate.calibration import verify as verify_setting
        from tokenprune_calibrate.collecting import Traffic
        from tokenprune_evaluation.named_methods import plain_text

        import tokenprune
        from tokenprune_cli.console.budgets import rule_or_count
        from tokenprune_cli.console.progress import ProgressBar

        setting = None
        if verify is None:
            goal = _goal(limits, confidence=confidence, unit=unit, seed=seed, stop_early=stop_early)
        else:
            named: dict[str, Any] = {f"max-{loss}": limit for loss, limit in limits.items()}
            named |= {"confidence": confidence, "unit": unit, "seed": seed, "stop-early": stop_early or None}
            _refuse_with_verify({**named, "method": method, "keep": keep, "max-new-tokens": max_new_tokens})
            setting = tokenprune.CalibratedSetting.load(verify)
            goal = certified_goal(setting)
            _refuse_overwriting(verify, output)
        methods = tuple(plain_text(text) for text in method or ())
        keeps = tuple(rule_or_count(text) for text in keep or ())
        questions = _questions(requests, metric, scenes, goal.loss == "drop")
        make_directory(output)
        for name in FILES:
            check_folder(output / name)
        network, processor = load_model(model, device, dtype, trust_remote_code)
        traffic = Traffic(
            network, processor, questions, model, batch, max_new_tokens or 16, goal.seed, redact
        )
        with ProgressBar() as progress:
            how: dict[str, Any] = {
                "in_seconds": in_seconds,
                "restart": restart,
                "progress": progress,
                "announce": partial(typer.echo, err=True),
            }
            if setting is None:
                result = calibrate(traffic, goal, output, methods=methods, keeps=keeps, **how)
            else:
                result = verify_setting(traffic, setting, output, **how)
        files = _write(output, result, traffic)
        deliver(result.record, partial(_show, files=files), as_json, None)


def _goal(limits: dict[str, float | None], **options: Any) -> Goal:
    """Return the goal of the only limit that is given, with the other options that are."""
    from tokenprune_calibrate.goal import Goal

    named = {loss: limit for loss, limit in limits.items() if limit is not None}
    if len(named) != 1:
        names = ", ".join(f"--max-{loss}" for loss in limits)
        raise BadInputError(f"give exactly one of {names}; got {len(named)} of them")
    ((loss, limit),) = named.items()
    return Goal(loss, limit, **{name: value for name, value in options.items() if value is not None})


def _refuse_with_verify(options: dict[str, Any]) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise BadInputError(f"--verify takes {', '.join(given)} from the setting file; leave them out")


def _refuse_overwriting(setting: Path, output: Path) -> None:
    from tokenprune_calibrate.calibration import SETTING

    if setting.resolve() == (output / SETTING).resolve():
        raise BadInputError(f"'{setting}' would be written anew; give --verify another --output")


def _questions(requests: Path | None, metric: str | None, scenes: int | None, needs: bool) -> QuestionSet:
    from tokenprune_evaluation.question_file import DEFAULT_METRIC
    from tokenprune_evaluation.question_set import embedded_scenes, questions_from_file

    if requests is None:
        if metric is not None:
            raise BadInputError("--metric goes with --requests; the embedded scenes have exact answers")
        return embedded_scenes(scenes or 100)
    if scenes is not None:
        raise BadInputError("give either --requests or --scenes, not both")
    return questions_from_file(requests, metric or DEFAULT_METRIC, needs_answers=needs)


def _write(output: Path, result: Calibration, traffic: Traffic) -> list[Path]:
    """Write the record, the page and the certified setting; return the files."""
    from tokenprune_calibrate.calibration import JOURNAL, PAGE, RECORD, SETTING
    from tokenprune_calibrate.disagreements import disagreements
    from tokenprune_calibrate.page import page
    from tokenprune_evaluation.records import dumps

    record = result.record
    write_text(output / RECORD, dumps(record))
    write_text(
        output / PAGE,
        page(record, disagreements(traffic, result.lines, result.example), result.example.label),
    )
    (output / SETTING).unlink(missing_ok=True)
    if result.setting is not None:
        result.setting.save(output / SETTING)
    files = [output / name for name in (JOURNAL, RECORD, PAGE)]
    return files if result.setting is None else [*files, output / SETTING]


def _show(record: CalibrationRecord, files: list[Path]) -> None:
    """Print the tables, the conclusion, what it means, and the files."""
    from rich.console import Console
    from tokenprune_calibrate.words import conclusion, meaning, table

    console = Console(highlight=False, markup=False)
    console.print(
        f"{record.model}: {record.units} of {record.pictures} pictures of {record.questions}; test: "
        f"{record.test}; the goal takes at least {record.fewest}"
    )
    console.print(table(record).rich())
    console.print(conclusion(record))
    for sentence in meaning(record):
        console.print(f"- {sentence}")
    if not record.is_redacted:
        console.print("The first file holds the requests' answers (--redact leaves them out):")
    for file in files:
        console.print(str(file), soft_wrap=True)
