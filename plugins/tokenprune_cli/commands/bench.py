# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench`: how fast pruning is, beside the fastest that it could be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.files import check_folder, deliver
from tokenprune_cli.console.models import Device, Precision, load_model
from tokenprune_cli.console.options import InPrecision, Keeps, MethodNames, OnDevice, OnlyJson, RecordFile
from tokenprune_cli.model_name import model_name

if TYPE_CHECKING:
    from tokenprune_cli.bench.presets import Preset
    from tokenprune_cli.bench.record import BenchRecord


def bench(
    preset: Annotated[
        str | None, typer.Option(help="A model of known sizes with random weights (default: cpu-small).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Instead: a directory or a hub id.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Of --model read only the configuration.")
    ] = False,
    method: MethodNames = None,
    keep: Keeps = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Only this batch size; may be repeated.")
    ] = None,
    new_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="Length of answers; may be repeated.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="How often everything is timed.")] = None,
    device: OnDevice = Device.auto,
    dtype: InPrecision = Precision.auto,
    output: RecordFile = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture.")] = None,
    as_json: OnlyJson = False,
) -> None:
    """Time a model pruned, unpruned and fed only what is kept."""
    with plain_errors(), quietly():
        import tokenprune
        from tokenprune_cli.console.budgets import budget

        chosen = _preset(preset, model)
        for name in method or ():
            tokenprune.method(name)
        changed: dict[str, Any] = {
            "methods": tuple(method or ()) or None,
            "keeps": tuple(budget(text, None).keep or 0 for text in keep or ()) or None,
            "batches": tuple(batch or ()) or None,
            "new_tokens": tuple(new_tokens or ()) or None,
            "repeats": repeats,
            "end_to_end_repeats": None if repeats is None else min(repeats, chosen.amount.end_to_end_repeats),
        }
        changed = {name: value for name, value in changed.items() if value is not None}
        chosen = dataclasses.replace(chosen, amount=dataclasses.replace(chosen.amount, **changed))
        if plot is not None:
            from tokenprune_cli.bench.plot import ENDINGS, save_plot  # loads matplotlib
            from tokenprune_cli.console.images import check_writable

            check_writable(plot, ENDINGS)
        check_folder(output)
        record = _measured(chosen, model, random_weights, device, dtype)
        deliver(record, _show, as_json, output)
        if plot is not None:
            save_plot(record, plot)


def _preset(preset: str | None, model: str | None) -> Preset:
    """The preset asked for; for another model what is measured of cpu-small."""
    from tokenprune_cli.bench.presets import PRESETS

    if preset is not None and model is not None:
        raise BadInputError("give either --preset or --model, not both")
    if preset is not None and preset not in PRESETS:
        raise BadInputError(f"there is no preset {preset!r}; presets: {', '.join(PRESETS)}")
    if model is None:
        return PRESETS[preset or "cpu-small"]
    small, name = PRESETS["cpu-small"], model_name(model)
    amount = dataclasses.replace(small.amount, new_tokens=(1, 32))
    return dataclasses.replace(small, name=name, about=f"the model {name}", amount=amount)


def _measured(
    preset: Preset, model: str | None, random_weights: bool, device: Device, dtype: Precision
) -> BenchRecord:
    """Make or load the model, measure behind a progress bar on stderr, and put the record together."""
    from tokenprune_cli.bench.measure import measure
    from tokenprune_cli.bench.models import configuration, prepared
    from tokenprune_cli.bench.record import BenchRecord, Subject, picking, runs
    from tokenprune_cli.console.progress import ProgressBar
    from tokenprune_cli.records import Provenance

    config = configuration(preset, model)
    make = None if model is None or random_weights else lambda: load_model(model, device, dtype)[0]
    network = prepared(config, preset, device, dtype, make)
    with ProgressBar() as progress:
        timed, skipped, workload = measure(network, preset.amount, progress)
    return BenchRecord(
        **vars(Provenance.here(network.device)),
        model=Subject(
            name=preset.name,
            about=preset.about,
            family=config.model_type,
            random_weights=make is None,
            parameters=sum(weight.numel() for weight in network.parameters()),
            dtype=str(network.dtype).removeprefix("torch."),
            device=network.device.type,
            visual_tokens=workload.n_visual,
            text_tokens=workload.n_text,
        ),
        amount=preset.amount,
        picking=picking(network.device, workload.n_visual),
        runs=runs(timed, config.text_config),
        skipped=skipped,
    )


def _show(record: BenchRecord) -> None:
    from rich.console import Console

    from tokenprune_cli.bench.table import EXPLANATION, terminal_tables

    console = Console(highlight=False)
    for table in terminal_tables(record):
        console.print(table.rich())
        console.print()
    console.print(EXPLANATION, markup=False)
    picked = record.picking
    console.print(f"diverse tokens were picked by {picked['path']}: {picked['why']}", markup=False)
    for name, reason in record.skipped.items():
        console.print(f"left out: {name}: {reason}", markup=False)
