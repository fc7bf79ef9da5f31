# SPDX-License-Identifier: Apache-2.0
"""Warm up all contenders, then time them in turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.flop_counter import FlopCounter
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.records import Provenance
from tokenprune_evaluation.tower_costs import tower_flops
from tokenprune_evaluation.tower_cut import TowerCut

import tokenprune
from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.bench.contenders import (
    DOWNSAMPLE,
    Contender,
    downsampled,
    oracle,
    pruned,
    pruned_in_tower,
    tower_name,
    unpruned,
)
from tokenprune_cli.bench.models import make_model
from tokenprune_cli.bench.oracle import Profile, rows_by_layer
from tokenprune_cli.bench.presets import Amount, Preset
from tokenprune_cli.bench.record import (
    BenchRecord,
    Run,
    Seconds,
    Subject,
    formula_flops,
    picking,
    with_ratios,
)
from tokenprune_cli.bench.timing import time_answer, time_prefill
from tokenprune_cli.bench.workload import Workload, make_workload
from tokenprune_cli.console.models import Device, Precision, load_config, load_model


def measure_preset(
    preset: Preset,
    name: str | None,
    random_weights: bool,
    device: Device,
    precision: Precision,
    progress: Progress,
) -> BenchRecord:
    """Make or load the model, time it, and return the record.

    Parameters
    ----------
    preset
        The model, and what is measured.
    name
        A directory or hub id of another model than the preset's.
    random_weights
        Whether to read only the configuration of the other model.
    """
    config = preset.config() if name is None else load_config(name)
    load = None if name is None or random_weights else lambda: load_model(name, device, precision)[0]
    model = make_model(config, preset.amount, device, precision, load)
    runs, skipped, workload = measure(model, preset.amount, progress)
    return BenchRecord(
        **vars(Provenance.here(model.device)),
        model=Subject(
            name=preset.name,
            about=preset.about,
            family=config.model_type,
            random_weights=load is None,
            parameters=sum(weight.numel() for weight in model.parameters()),
            dtype=str(model.dtype).removeprefix("torch."),
            device=model.device.type,
            visual_tokens=workload.n_visual,
            text_tokens=workload.n_text,
        ),
        amount=preset.amount,
        picking=picking(model.device, workload.n_visual),
        runs=runs,
        skipped=skipped,
    )


def measure(
    model: Any, amount: Amount, progress: Progress = lambda what, done, total: None
) -> tuple[tuple[Run, ...], dict[str, str], Workload]:
    """Time all contenders at all batch sizes.

    Parameters
    ----------
    progress
        Called with what is measured, how much of it is done, and how much there is.

    Returns
    -------
    tuple
        The runs; contenders that the model does not support, with the reason; the last workload.
    """
    skipped: dict[str, str] = {}
    runs: list[Run] = []
    for batch in amount.batches:
        workload = make_workload(model, batch, amount.text_tokens, amount.picture)
        contenders = _contenders(model, workload, amount, skipped)
        clock, n_rounds, warm_up = Clock(model.device), amount.rounds(batch), f"warm-up, batch {batch}"
        measurements: list[_Measurement] = []
        for i, contender in enumerate(contenders):
            progress(warm_up, i, len(contenders) + 1)
            measurements.append(_Measurement(model, workload, contender, clock))
        oracles = _oracles(model, workload, measurements)
        measurements += [_Measurement(model, workload, contender, clock) for contender in oracles]
        progress(warm_up, len(contenders) + 1, len(contenders) + 1)
        for i in range(n_rounds):
            progress(f"batch {batch}", i, n_rounds)
            for measurement in measurements:
                measurement.run(amount, with_answers=i < amount.end_to_end_repeats)
        progress(f"batch {batch}", n_rounds, n_rounds)
        runs += with_ratios([measurement.summary() for measurement in measurements])
    return tuple(runs), skipped, workload


def _contenders(model: Any, workload: Workload, amount: Amount, skipped: dict[str, str]) -> list[Contender]:
    """Return all contenders but the oracles; add those that the model does not support to `skipped`."""
    contenders = [unpruned(workload)]
    for cut in amount.tower_cuts:
        if cut.keep < min(amount.keeps):
            skipped[_name(cut)] = f"it leaves {cut.keep} tokens, fewer than every budget"
    for keep in amount.keeps:
        makers: dict[str, Callable[[], Contender]] = {
            DOWNSAMPLE: functools.partial(downsampled, model, workload, keep),
            **{name: functools.partial(pruned, model, workload, name, keep) for name in amount.methods},
        }
        for cut in amount.tower_cuts:
            if keep <= cut.keep:
                makers[_name(cut)] = functools.partial(pruned_in_tower, model, workload, cut, keep)
        for name, make in makers.items():
            try:
                contender = make()
                with contender.ready():
                    contenders.append(contender)
            except (tokenprune.IncompatibleError, tokenprune.BudgetError) as error:
                skipped[name] = str(error)
    return contenders


def _name(cut: TowerCut) -> str:
    return f"{tower_name(cut)}, {cut.keep} @{cut.layer}"


class _Measurement:
    """A contender, what its last prefill showed, and the seconds of each repeat by part of the run."""

    def __init__(self, model: Any, workload: Workload, contender: Contender, clock: Clock) -> None:
        """Warm up: run once untimed, and count the FLOPs of the prefill with PyTorch's counter."""
        self.model, self.workload, self.contender, self.clock = model, workload, contender, clock
        self.samples: dict[str, list[float]] = {}
        counter = FlopCounter()
        self.prefill = time_prefill(model, contender, clock, 0, counter)
        self.flops = counter.total

    def run(self, amount: Amount, with_answers: bool) -> None:
        """Time a prefill, and the answers."""
        self.prefill = time_prefill(self.model, self.contender, self.clock, amount.decode_steps)
        seconds = self.prefill.seconds
        for n in amount.new_tokens:
            if n == 1:  # an answer of one token is the prefill
                seconds["end_to_end_1"] = seconds["prefill"]
            elif with_answers:
                seconds[f"end_to_end_{n}"] = time_answer(self.model, self.contender, self.clock, n)
        for part, value in seconds.items():
            self.samples.setdefault(part, []).append(value)

    def summary(self) -> Run:
        """Summarize the repeats, without ratios."""
        batch, text = self.workload.batch, self.model.config.text_config
        return Run(
            batch=batch,
            name=self.contender.name,
            keep=self.contender.keep,
            visual_rows=self.prefill.profile,
            seconds={part: Seconds.of(values) for part, values in self.samples.items()},
            kv_bytes=self.prefill.kv_bytes,
            peak_memory_bytes=self.prefill.peak_memory_bytes,
            flops_counted=self.flops,
            flops_formula=batch * formula_flops(text, self.prefill.profile),
            tower_rows=self.prefill.tower,
            flops={part: batch * count for part, count in self._flops_of_a_row().items()},
        )

    def _flops_of_a_row(self) -> dict[str, int]:
        """Return the FLOPs of the tower and of the language model; {} without formulas for the tower."""
        config, workload, prefill = self.model.config, self.workload, self.prefill
        rows = rows_by_layer(prefill.profile, config.text_config.num_hidden_layers)
        try:
            tower = tower_flops(
                config, self.contender.picture or workload.picture, dict(prefill.tower), workload.tiles
            )
        except ValueError:
            return {}
        return {
            "tower": tower,
            "language": prefill_flops(config.text_config, [workload.n_text + n for n in rows]),
        }


def _oracles(model: Any, workload: Workload, measurements: Sequence[_Measurement]) -> list[Contender]:
    """Return an oracle for each profile that a method has, and one for each cut inside the tower."""
    budgets: dict[tuple[Profile, Profile], int] = {}
    for measurement in measurements:
        contender, prefill = measurement.contender, measurement.prefill
        if contender.profile is None and contender.keep is not None:
            budgets.setdefault((prefill.profile, ()), contender.keep)
            budgets.setdefault((prefill.profile, prefill.tower), contender.keep)
    whole_towers_first = sorted(budgets, key=lambda rows: len(rows[1]))
    return [
        oracle(model, workload, profile, budgets[profile, tower], tower)
        for profile, tower in whole_towers_first
    ]
