# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench`: measure how fast pruning is, in transformers or in a vLLM server."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenprune_cli.commands.bench_transformers import bench_transformers
from tokenprune_cli.commands.bench_vllm import bench_vllm
from tokenprune_cli.console import options
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision


class Engine(str, Enum):
    """What runs the model."""

    transformers = "transformers"
    vllm = "vllm"


TRANSFORMERS, VLLM = (f"Only with --engine {engine.value}" for engine in Engine)  # panels of the help text


def bench(
    engine: Annotated[Engine, typer.Option(help="What runs the model.")] = Engine.transformers,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A model of known size with random weights (default: cpu-small).",
            rich_help_panel=TRANSFORMERS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Another model: a directory or a hub id.", rich_help_panel=TRANSFORMERS),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Read only the configuration of --model.", rich_help_panel=TRANSFORMERS
        ),
    ] = False,
    method: options.MethodNames = None,
    keep: options.Keeps = None,
    tower_cut: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER:N",
            help="Also cut to N tokens before block LAYER of the vision tower; may be repeated.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Only this batch size; may be repeated.", rich_help_panel=TRANSFORMERS),
    ] = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Only this number of concurrent clients (default: 1 and 8); may be repeated.",
            rich_help_panel=VLLM,
        ),
    ] = None,
    new_tokens: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Length of the answers; may be repeated, except with --engine vllm."),
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="How often each contender is timed.")] = None,
    device: Annotated[
        Device, typer.Option(help="Device to run on.", rich_help_panel=TRANSFORMERS)
    ] = Device.auto,
    dtype: Annotated[
        Precision, typer.Option(help="Data type of the model.", rich_help_panel=TRANSFORMERS)
    ] = Precision.auto,
    output: options.RecordFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write a plot of the speed-ups to this file.", rich_help_panel=TRANSFORMERS),
    ] = None,
    as_json: options.OnlyJson = False,
) -> None:
    """Time a model unpruned, pruned, and given only the kept rows.

    With --engine vllm, time vLLM's answers to concurrent clients, unpruned and pruned, with random weights.
    """
    with plain_errors(), quietly():
        if engine is Engine.vllm:
            chosen = {"--preset": preset, "--model": model, "--random-weights": random_weights}
            placed = {"--device": device is not Device.auto, "--dtype": dtype is not Precision.auto}
            _refuse(chosen | {"--batch": batch, "--plot": plot} | placed, engine)
            bench_vllm(
                methods=method or (),
                keeps=keep or (),
                tower_cuts=tower_cut or (),
                clients=clients or (),
                new_tokens=new_tokens or (),
                repeats=repeats,
                output=output,
                as_json=as_json,
            )
        else:
            _refuse({"--clients": clients}, engine)
            bench_transformers(
                preset=preset,
                model=model,
                random_weights=random_weights,
                methods=method or (),
                keeps=keep or (),
                tower_cuts=tower_cut or (),
                batches=batch or (),
                new_tokens=new_tokens or (),
                repeats=repeats,
                device=device,
                dtype=dtype,
                output=output,
                plot=plot,
                as_json=as_json,
            )


def _refuse(options: dict[str, Any], engine: Engine) -> None:
    """Refuse the options, by their names, that the user gave and that mean nothing with this engine."""
    for name, value in options.items():
        if value:
            raise BadInputError(f"{name} cannot be used with --engine {engine.value}; leave it out")
