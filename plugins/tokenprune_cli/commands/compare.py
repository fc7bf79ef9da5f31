# SPDX-License-Identifier: Apache-2.0
"""`tokenprune compare`: compare methods at several budgets on a set of questions, for one or more models."""

from __future__ import annotations

import os
import shlex
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tokenprune_evaluation.files import check_folder, make_directory
from tokenprune_evaluation.model_name import model_name

from tokenprune_cli.console import options
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence


class Protocol(str, Enum):
    """What is equal for all methods; see `tokenprune_cli.compare.protocols`."""

    paper = "paper"
    matched = "matched"
    both = "both"


def compare(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A directory or a hub id; may be repeated (default: the embedded model)."),
    ] = None,
    method: options.MethodNames = None,
    keep: options.Keeps = None,
    protocol: Annotated[
        Protocol, typer.Option(help="Methods as their authors ran them, or under equal rules.")
    ] = Protocol.both,
    conversation: Annotated[
        bool, typer.Option("--conversation", help="Also ask later questions on what the first one left.")
    ] = False,
    certify: Annotated[
        float | None,
        typer.Option(help="Also certify budgets: highest disagreement, above 0, below 1.", metavar="RISK"),
    ] = None,
    questions: options.QuestionFile = None,
    metric: options.Metric = None,
    scenes: options.Scenes = None,
    output: Annotated[Path, typer.Option(help="Directory for the results.", metavar="DIR")] = Path(
        "compare-output"
    ),
    restart: Annotated[bool, typer.Option("--restart", help="Discard earlier answers in DIR.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; each loads the model.")
    ] = None,
    batch: options.Batch = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of answers, in tokens.")] = 16,
    min_pixels: Annotated[
        int | None, typer.Option(min=1, help="Minimum number of pixels of a picture.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of pixels of a picture.")
    ] = None,
    seed: options.Seed = 0,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.OnlyJson = False,
) -> None:
    """Compare methods at several budgets on a set of questions, and write a report."""
    with plain_errors(), quietly():
        from tokenprune_calibrate.goal import Goal
        from tokenprune_calibrate.losses import DISAGREEMENT
        from tokenprune_evaluation.settings import known_method

        from tokenprune_cli.compare import comparison
        from tokenprune_cli.compare.answers import AnswerOptions
        from tokenprune_cli.compare.conversation import conversations
        from tokenprune_cli.compare.output import FILES, write_all
        from tokenprune_cli.compare.protocols import PROTOCOLS
        from tokenprune_cli.compare.workers import Source
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.progress import ProgressBar

        if certify is not None:
            Goal(DISAGREEMENT, certify)  # checks the limit before any work
        protocols = PROTOCOLS if protocol is Protocol.both else (protocol.value,)
        methods = tuple(known_method(name) for name in method or ())
        keeps = tuple(budget(text, None).keep or 0 for text in keep or ())
        models = _distinct(model or [None])
        request = comparison.Request(
            methods, keeps, protocols, conversation, restart, workers or _processes(models), certify=certify
        )
        origin, pixels = (questions, metric, scenes), (min_pixels, max_pixels)
        sources = [Source(name, device, dtype, trust_remote_code, *origin, pixels) for name in models]
        question_set = sources[0].load_questions()
        if conversation and not conversations(question_set, seed):
            raise BadInputError("--conversation needs a picture with two questions or more; there is none")
        folders = _folders(models, output)
        for name in FILES:
            check_folder(output / name)
        answering = AnswerOptions(batch, max_new_tokens, seed)
        compared = []
        for source, folder in zip(sources, folders, strict=True):
            with ProgressBar() as progress:
                result = comparison.compare(source, question_set, answering, request, folder, progress)
                compared.append(result)
        record, files = write_all(output, _command(), question_set, compared)
        deliver(record, partial(_show, files=files), as_json, None)


def _command() -> str:
    """Return the command line without `--output`."""
    words = sys.argv[1:]
    if "--output" in words:
        at = words.index("--output")
        del words[at : at + 2]
    return shlex.join(["tokenprune", *words])


def _distinct(models: Sequence[str | None]) -> list[str | None]:
    """Return the models without repetition; refuse equal names, and names of the files in the output."""
    from tokenprune_cli.compare.output import FILES

    unique = list(dict.fromkeys(models))
    by_name: dict[str, list[str | None]] = {}
    for model in unique:
        by_name.setdefault(model_name(model), []).append(model)
    for name, same in by_name.items():
        if len(same) > 1:
            both = " and ".join(f"'{model}'" for model in same)
            raise BadInputError(
                f"two models are called {name!r}; rename one directory, or compare each into an --output of "
                f"its own ({both})"
            )
        if name in FILES:
            raise BadInputError(
                f"a model called {name!r} would stand where that file goes; rename its directory"
            )
    return unique


def _folders(models: Sequence[str | None], output: Path) -> list[Path]:
    """Make a directory for each model; refuse two that are the same (ignored case, or a link)."""
    folders: list[Path] = []
    for model in models:
        folder = output / model_name(model)
        make_directory(folder)
        for other in folders:
            if folder.samefile(other):
                raise BadInputError(f"'{other}' and '{folder}' are one folder; rename one model's directory")
        folders.append(folder)
    return folders


def _processes(models: Sequence[str | None]) -> int:
    """Return one process per core for the embedded model, which is small, and else a single one."""
    return min(4, os.cpu_count() or 1) if list(models) == [None] else 1


def _show(record: dict[str, Any], files: Sequence[Path]) -> None:
    """Print the tables, their conclusions, and the reasons why a setting is not possible."""
    from rich.console import Console

    from tokenprune_cli.compare import table
    from tokenprune_cli.compare.certified import certified_table
    from tokenprune_cli.compare.protocols import EXPLANATIONS

    console = Console(highlight=False, markup=False)
    for model in record["models"]:
        console.print(
            f"{model['name']}: {model['questions']} questions about {model['pictures']} pictures "
            f"({model['configuration']['questions']['name']}); {model['preprocessing']}"
        )
        for protocol in dict.fromkeys(line["protocol"] for line in model["lines"]):
            console.print(f"\nProtocol {protocol}. {EXPLANATIONS[protocol]}")
            for metric in model["metrics"]:
                console.print(f"\n{metric}", style="italic")
                console.print(table.table(model, protocol, metric, table.QUESTIONS).rich())
            if "certified" in model:
                console.print(certified_table(model, protocol).rich())
            for sentence in table.conclusions(model, protocol):
                console.print(f"- {sentence}")
            for metric in model["metrics"] if "conversation" in model else ():
                console.print(f"\nconversation: {metric}", style="italic")
                console.print(table.table(model, protocol, metric, table.CONVERSATION).rich())
        for reason, number in table.refusals(model).items():
            console.print(f"[{number}] {reason}")
        for method, reason in model["unavailable"].items():
            console.print(f"{method} cannot be used on this model: {reason}")
    console.print(table.LEGEND)
    if any("conversation" in model for model in record["models"]):
        console.print(table.CONVERSATION_LEGEND)
    for file in files:
        console.print(str(file), soft_wrap=True)
