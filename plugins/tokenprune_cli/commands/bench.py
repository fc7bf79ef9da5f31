# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench`: measure how fast pruning is, compared to the fastest that it could be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tokenprune_evaluation.files import check_folder
from tokenprune_evaluation.model_name import model_name

from tokenprune_cli.console import options
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError, plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision

if TYPE_CHECKING:
    from tokenprune_cli.bench.presets import Preset, TowerCut

TOWER_METHOD = "divprune"  # of --tower-cut


def bench(
    preset: Annotated[
        str | None, typer.Option(help="A model of known size with random weights (default: cpu-small).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model: a directory or a hub id.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read only the configuration of --model.")
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
        list[int] | None, typer.Option(min=1, help="Only this batch size; may be repeated.")
    ] = None,
    new_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help="Length of the answers; may be repeated.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="How often each contender is timed.")] = None,
    device: options.OnDevice = Device.auto,
    dtype: options.InPrecision = Precision.auto,
    output: options.RecordFile = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of the speed-ups to this file.")] = None,
    as_json: options.OnlyJson = False,
) -> None:
    """Time a model unpruned, pruned, and given only the kept rows."""
    with plain_errors(), quietly():
        import tokenprune
        from tokenprune_cli.bench.measure import measure_preset
        from tokenprune_cli.bench.table import show
        from tokenprune_cli.console.budgets import budget
        from tokenprune_cli.console.progress import ProgressBar

        chosen = _preset(preset, model)
        for name in method or ():
            tokenprune.method(name)
        changes: dict[str, Any] = {
            "methods": tuple(method or ()),
            "keeps": tuple(budget(text, None).keep or 0 for text in keep or ()),
            "tower_cuts": tuple(map(_tower_cut, tower_cut or ())),
            "batches": tuple(batch or ()),
            "new_tokens": tuple(new_tokens or ()),
            "repeats": repeats,
            "end_to_end_repeats": repeats and min(repeats, chosen.amount.end_to_end_repeats),
        }
        changes = {name: value for name, value in changes.items() if value}
        chosen = dataclasses.replace(chosen, amount=dataclasses.replace(chosen.amount, **changes))
        if plot is not None:
            from tokenprune_evaluation.images import check_writable

            from tokenprune_cli.bench.plot import EXTENSIONS, save_plot  # loads matplotlib

            check_writable(plot, EXTENSIONS)
        check_folder(output)
        with ProgressBar() as progress:
            record = measure_preset(chosen, model, random_weights, device, dtype, progress)
        deliver(record, show, as_json, output)
        if plot is not None:
            save_plot(record, plot)


def _preset(preset: str | None, model: str | None) -> Preset:
    """Return the preset of this name; for a model, what is measured with cpu-small, and longer answers."""
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


def _tower_cut(text: str) -> TowerCut:
    """Return the cut of `--tower-cut LAYER:N`."""
    from tokenprune_cli.bench.presets import TowerCut

    layer, separator, keep = text.partition(":")
    if not separator or not layer.isdecimal() or not keep.isdecimal() or int(keep) < 1:
        raise BadInputError(
            f"--tower-cut must be LAYER:N, a block of the vision tower and the tokens left from it on, such "
            f"as 4:288; got {text!r}"
        )
    return TowerCut(TOWER_METHOD, int(layer), int(keep))
