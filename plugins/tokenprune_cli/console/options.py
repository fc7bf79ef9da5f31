# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune_cli.console.models import Device, Precision

ModelName = Annotated[str | None, typer.Option(help="A directory or a hub id; default: the embedded model.")]
OnDevice = Annotated[Device, typer.Option(help="Device to run on.")]
InPrecision = Annotated[Precision, typer.Option(help="Data type of the model.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]

MethodNames = Annotated[
    list[str] | None,
    typer.Option(help="Only this method, with options as in zoo-prune,n_directions=16; may be repeated."),
]
Keeps = Annotated[list[str] | None, typer.Option(help="Only this budget; may be repeated.", metavar="N")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Seed of methods that draw random numbers.", metavar="N")
]

QuestionFile = Annotated[
    Path | None, typer.Option(help="JSON lines with image, question, answer(s).", metavar="FILE")
]
Metric = Annotated[
    str | None, typer.Option(help="Metric of questions that name none (default: exact_match).")
]
Scenes = Annotated[
    int | None, typer.Option(min=2, max=100, help="Number of scenes, without --questions (default 40).")
]
Batch = Annotated[int, typer.Option(min=1, help="Number of questions answered at once.")]

RecordFile = Annotated[Path | None, typer.Option(help="Also write the JSON to this file.", metavar="FILE")]
OnlyJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
