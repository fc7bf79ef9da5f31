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
    Contender,
    oracle,
    pruned,
    smaller_picture,
    unpruned,
)
from tokenprune_cli.bench.presets import Amount
from tokenprune_cli.bench.timing import Found, time_answer, time_prefill, warm_up
from tokenprune_cli.bench.workload import Workload, make_workload


@dataclass
class Timed:
    """A contender at a batch size, what its warm-up showed, and seconds of each repeat by part."""

    contender: Contender
    batch: int
    found: Found
    samples: dict[str, list[float]] = field(default_factory=dict)


def measure(
    model: Any, amount: Amount, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> tuple[list[Timed], dict[str, str], Workload]:
    """Time all contenders at all batch sizes.

    Parameters
    ----------
    progress
        Told what is measured, how much of it is done, and of how much.

    Returns
    -------
    tuple
        What was timed; methods this model cannot use, with the reason; the last workload.
    """
    skipped: dict[str, str] = {}
    timed: list[Timed] = []
    for batch in amount.batches:
        workload = make_workload(model, batch, amount.text_tokens, amount.side)
        clock, group, n_rounds = Clock(model.device), [], amount.rounds(batch)
        contenders = _contenders(model, workload, amount, skipped)
        for i, contender in enumerate(contenders):
            progress(f"warm-up, batch {batch}", i, len(contenders) + 1)
            group.append(Timed(contender, batch, warm_up(model, contender, clock)))
        group += [Timed(one, batch, warm_up(model, one, clock)) for one in _oracles(model, workload, group)]
        progress(f"warm-up, batch {batch}", len(contenders) + 1, len(contenders) + 1)
        for i in range(n_rounds):
            progress(f"batch {batch}", i, n_rounds)
            _one_round(model, group, clock, amount, with_answers=i < amount.end_to_end_repeats)
        progress(f"batch {batch}", n_rounds, n_rounds)
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


def _one_round(model: Any, group: Sequence[Timed], clock: Clock, amount: Amount, with_answers: bool) -> None:
    """Time every contender once."""
    for one in group:
        seconds, found = time_prefill(model, one.contender, clock, amount.decode_steps)
        one.found.peak_memory_bytes = found.peak_memory_bytes
        for n in amount.new_tokens:
            if n == 1:  # an answer of one token is the prefill
                seconds["end_to_end_1"] = seconds["prefill"]
            elif with_answers:
                seconds[f"end_to_end_{n}"] = time_answer(model, one.contender, clock, n)
        for part, value in seconds.items():
            one.samples.setdefault(part, []).append(value)
