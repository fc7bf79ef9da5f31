# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine transformers`: time a model, and the fastest that any pruning could be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune_evaluation.files import check_folder
from tokenprune_evaluation.model_name import model_name

from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.console.models import Device, Precision
from tokenprune_cli.console.tower_cuts import layer_and_keep

if TYPE_CHECKING:
    from tokenprune_cli.bench.presets import Preset

TOWER_METHOD = "divprune"  # of --tower-cut


def bench_transformers(
    *,
    preset: str | None,
    model: str | None,
    random_weights: bool,
    methods: Sequence[str],
    keeps: Sequence[str],
    tower_cuts: Sequence[str],
    batches: Sequence[int],
    new_tokens: Sequence[int],
    repeats: int | None,
    device: Device,
    dtype: Precision,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure what the options of the command say, as they are given; empty or None: the preset's."""
    from tokenprune_evaluation.named_methods import plain_text
    from tokenprune_evaluation.tower_cut import TowerCut

    from tokenprune_cli.bench.measure import measure_preset
    from tokenprune_cli.bench.table import show
    from tokenprune_cli.console.budgets import budget
    from tokenprune_cli.console.progress import ProgressBar

    chosen = _preset(preset, model)
    changes: dict[str, Any] = {
        "methods": tuple(dict.fromkeys(map(plain_text, methods))),
        "keeps": tuple(budget(text, None).keep or 0 for text in keeps),
        "tower_cuts": tuple(TowerCut(TOWER_METHOD, *layer_and_keep(text)) for text in tower_cuts),
        "batches": tuple(batches),
        "new_tokens": tuple(new_tokens),
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
