# SPDX-License-Identifier: Apache-2.0
"""Warm up everything, then time everything in turns: what slows the machine down meets all contenders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tokenprune
from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.bench.contenders import (
    DOWNSAMPLE,
    ORACLE,
    Contender,
    oracle,
    pruned,
    smaller_picture,
    unpruned,
)
from tokenprune_cli.bench.timing import Found, time_answer, time_prefill, warm_up
from tokenprune_cli.bench.workload import Workload, make_workload


@dataclass(frozen=True)
class Amount:
    """How much is measured; see `Preset`."""

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    batches: tuple[int, ...]
    new_tokens: tuple[int, ...]
    text_tokens: int
    side: int
    repeats: int
    end_to_end_repeats: int
    decode_steps: int

    def rounds(self, batch: int) -> int:
        """How often each contender is timed at a batch size: below the largest, twice `repeats`."""
        return self.repeats * (1 if batch == max(self.batches) else 2)


@dataclass
class Timed:
    """A contender at a batch size, what its warm-up showed, and seconds of each repeat by part."""

    contender: Contender
    batch: int
    found: Found
    samples: dict[str, list[float]] = field(default_factory=dict)


def measure(
    model: Any, amount: Amount, tick: Callable[[str], None] = lambda what: None
) -> tuple[list[Timed], dict[str, str], Workload]:
    """Time all contenders at all batch sizes.

    Parameters
    ----------
    tick
        Called before each run with a word about it.

    Returns
    -------
    tuple
        What was timed; methods this model cannot use, with the reason; the last workload.
    """
    skipped: dict[str, str] = {}
    timed: list[Timed] = []
    for batch in amount.batches:
        workload = make_workload(model, batch, amount.text_tokens, amount.side)
        clock, group = Clock(model.device), []
        for contender in _contenders(model, workload, amount, skipped):
            tick(f"warm-up: {contender.name}, batch {batch}")
            group.append(Timed(contender, batch, warm_up(model, contender, clock)))
        for one in _oracles(model, workload, group):
            tick(f"warm-up: oracle, batch {batch}")
            group.append(Timed(one, batch, warm_up(model, one, clock)))
        _repeat(model, group, clock, amount, tick)
        timed += group
    return timed, skipped, workload


def _contenders(model: Any, workload: Workload, amount: Amount, skipped: dict[str, str]) -> list[Contender]:
    """All but the oracles."""
    found = [unpruned(workload)]
    for keep in amount.keeps:
        small = smaller_picture(model, workload, keep)
        if isinstance(small, str):
            skipped[DOWNSAMPLE] = small
        else:
            found.append(small)
        for method in amount.methods:
            one = pruned(model, workload, method, keep)
            try:
                with one.ready():
                    found.append(one)
            except (tokenprune.IncompatibleError, tokenprune.BudgetError) as error:
                skipped[method] = str(error)
    return found


def _oracles(model: Any, workload: Workload, group: Sequence[Timed]) -> list[Contender]:
    """One for each way in which rows are left from layer to layer."""
    wanted: dict[Any, int] = {}
    for one in group:
        if one.contender.profile is None and one.contender.keep is not None:
            wanted.setdefault(one.found.profile, one.contender.keep)
    return [oracle(model, workload, profile, keep) for profile, keep in wanted.items()]


def _repeat(
    model: Any, group: Sequence[Timed], clock: Clock, amount: Amount, tick: Callable[[str], None]
) -> None:
    for repeat in range(amount.rounds(group[0].batch)):
        for one in group:
            tick(f"{one.contender.name}, batch {one.batch}")
            seconds, found = time_prefill(model, one.contender, clock, amount.decode_steps)
            one.found.peak_memory_bytes = found.peak_memory_bytes
            for n in amount.new_tokens:
                if n == 1:  # an answer of one token is the prefill
                    seconds["end_to_end_1"] = seconds["prefill"]
                elif repeat < amount.end_to_end_repeats:
                    seconds[f"end_to_end_{n}"] = time_answer(model, one.contender, clock, n)
            for part, value in seconds.items():
                one.samples.setdefault(part, []).append(value)


def n_ticks(amount: Amount, downsamples: bool) -> int:
    """About how many runs there will be, for a progress bar."""
    each = 1 + len(amount.keeps) * (len(amount.methods) + 2 + downsamples)
    return sum(each * (1 + amount.rounds(batch)) for batch in amount.batches)


def is_oracle(one: Timed) -> bool:
    """Whether this is an oracle."""
    return one.contender.name == ORACLE
