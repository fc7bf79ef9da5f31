# SPDX-License-Identifier: Apache-2.0
"""`tokenprune compare`: models x methods x budgets on a set of questions, fairly."""

from __future__ import annotations

import json
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.files import check_folder, make_directory
from tokenprune_cli.console.models import Device, Precision
from tokenprune_cli.console.options import (
    Batch,
    InPrecision,
    Keeps,
    MethodNames,
    Metric,
    OnDevice,
    OnlyJson,
    QuestionFile,
    Scenes,
    Seed,
    TrustRemoteCode,
)
from tokenprune_cli.model_name import model_name

if TYPE_CHECKING:
    from collections.abc import Sequence


class Protocol(str, Enum):
    """What is held equal; see `tokenprune_cli.compare.protocols`."""

    paper = "paper"
    matched = "matched"
    both = "both"


def compare(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A directory or a hub id; may be repeated (default: the embedded model)."),
    ] = None,
    method: MethodNames = None,
    keep: Keeps = None,
    protocol: Annotated[Protocol, typer.Option(help="As the authors ran it, or under equal rules.")] = (
        Protocol.both
    ),
    conversation: Annotated[
        bool, typer.Option("--conversation", help="Also ask later questions of what the first one left.")
    ] = False,
    questions: QuestionFile = None,
    metric: Metric = None,
    scenes: Scenes = None,
    output: Annotated[Path, typer.Option(help="Where everything goes.", metavar="DIR")] = Path(
        "compare-output"
    ),
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what DIR holds.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that answer; each loads the model.")
    ] = None,
    batch: Batch = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length limit of answers.")] = 16,
    min_pixels: Annotated[int | None, typer.Option(min=1, help="Least pixels of a picture.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Most pixels of a picture.")] = None,
    seed: Seed = 0,
    device: OnDevice = Device.auto,
    dtype: InPrecision = Precision.auto,
    trust_remote_code: TrustRemoteCode = False,
    as_json: OnlyJson = False,
) -> None:
    """Compare methods at several budgets on a set of questions, and write a report."""
    with plain_errors(), quietly():
        from tokenprune_cli.compare.answers import Work
        from tokenprune_cli.compare.comparison import Asked
        from tokenprune_cli.compare.comparison import compare as compare_model
        from tokenprune_cli.compare.conversation import conversations
        from tokenprune_cli.compare.output import FILES, write_all
        from tokenprune_cli.compare.protocols import PROTOCOLS
        from tokenprune_cli.compare.workers import Source
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.progress import ProgressBar
        from tokenprune_cli.console.questions import what_to_ask
        from tokenprune_cli.evaluation.settings import known_method

        asked_of = what_to_ask(questions, metric, scenes)
        names = PROTOCOLS if protocol is Protocol.both else (protocol.value,)
        methods = tuple(known_method(name) for name in method or ())
        keeps = tuple(budget(text, None).keep or 0 for text in keep or ())
        models = _different(model or [None])
        asked = Asked(methods, keeps, names, conversation, restart, workers or _processes(models))
        sources = [
            Source(one, device, dtype, trust_remote_code, *asked_of, (min_pixels, max_pixels))
            for one in models
        ]
        drawn = sources[0].load_questions()
        if conversation and not conversations(drawn, seed):
            raise BadInputError("--conversation needs a picture with two questions or more; there is none")
        work = Work(batch, max_new_tokens, seed, output)
        folders = _folders(models, output)
        for name in FILES:
            check_folder(output / name)
        compared = []
        for source, folder in zip(sources, folders, strict=True):
            with ProgressBar() as progress:
                compared.append(compare_model(source, drawn, work, asked, folder, progress))
        record, files = write_all(output, _command(), drawn, compared)
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        _show(record, [str(file) for file in files])


def _command() -> str:
    """The command line that does the same, wherever its output goes."""
    words = sys.argv[1:]
    if "--output" in words:
        at = words.index("--output")
        del words[at : at + 2]
    return shlex.join(["tokenprune", *words])


def _different(models: Sequence[str | None]) -> list[str | None]:
    """Each model once; two of the same name could not be told apart, nor one that is named as a file is."""
    from tokenprune_cli.compare.output import FILES

    unique = list(dict.fromkeys(models))
    names = [model_name(one) for one in unique]
    again = [name for name in names if names.count(name) > 1]
    if again:
        both = " and ".join(f"'{one}'" for one, name in zip(unique, names, strict=True) if name == again[0])
        raise BadInputError(
            f"two models are called {again[0]!r}; rename one directory, or compare each into an --output of "
            f"its own ({both})"
        )
    for name in names:
        if name in FILES:
            raise BadInputError(
                f"a model called {name!r} would stand where that file goes; rename its directory"
            )
    return unique


def _folders(models: Sequence[str | None], output: Path) -> list[Path]:
    """A folder for each, made; a file system that takes `A` for `a`, or a link, may make two of them one."""
    folders: list[Path] = []
    for one in models:
        folder = output / model_name(one)
        make_directory(folder)
        for other in folders:
            if folder.samefile(other):
                raise BadInputError(f"'{other}' and '{folder}' are one folder; rename one model's directory")
        folders.append(folder)
    return folders


def _processes(models: Sequence[str | None]) -> int:
    """One process a core for the embedded model, which is small; else a single one."""
    import os

    return min(4, os.cpu_count() or 1) if list(models) == [None] else 1


def _show(record: dict[str, Any], files: list[str]) -> None:
    """Print tables, what they say, and what cannot be reached and why."""
    from rich.console import Console

    from tokenprune_cli.compare import table
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
        console.print(file, soft_wrap=True)
