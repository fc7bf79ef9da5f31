# SPDX-License-Identifier: Apache-2.0
"""Time a tower that loses half of its patches before some block, and compare with the saved FLOPs.

The oracle drops the same number of rows with a plain hook that selects nothing: the difference to it is the
cost of selection. Contenders run in turns, so that other load on the machine affects all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.bench.contenders import ORACLE, UNPRUNED
from tokenprune_cli.bench.record import Seconds, ratio
from tokenprune_evaluation.flop_counter import FlopCounter
from tokenprune_evaluation.records import to_dict
from torch import Tensor, nn

import tokenprune
from benchmarks.towers.subjects import Subject

LAYER = 4
REPEATS = {1: 15, 16: 5}  # by batch size
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "attention + topk": {"scorer": "attention", "selector": "topk"},
    "attention + diverse": {"scorer": "attention", "selector": "diverse"},
    "divprune": {"method": "divprune"},
    "zoo-exact": {"method": "zoo-exact"},
}
CONTENDERS = (UNPRUNED, ORACLE, *SETTINGS)


@contextmanager
def ready(subject: Subject, name: str, layer: int) -> Iterator[tokenprune.PruningHandle | None]:
    """Prepare the model for a contender, inside the block."""
    keep = subject.n_patches // 2
    if name == UNPRUNED:
        yield None
    elif name == ORACLE:

        def drop(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0][:, : 1 + keep], *args[1:])

        hook = subject.blocks[layer].register_forward_pre_hook(drop)
        try:
            yield None
        finally:
            hook.remove()
    else:
        with tokenprune.apply(subject.model, **SETTINGS[name], keep=keep, layer=layer) as handle:
            yield handle


def count_flops(subject: Subject, name: str, layer: int) -> int:
    """Count the FLOPs of an image with PyTorch's counter, after everything derived from weights is cached.

    Gradients are enabled, because without them nn.MultiheadAttention is a single operation for which PyTorch
    has no formula.
    """
    picture, counter = torch.zeros(1, 3, subject.side, subject.side), FlopCounter()
    with ready(subject, name, layer), torch.enable_grad():
        subject.run(picture)
        with counter:
            subject.run(picture)
    return counter.total


@dataclass
class Samples:
    """Seconds of each repeat: the whole run, and the selection in it."""

    whole: list[float] = field(default_factory=list)
    choosing: list[float] = field(default_factory=list)


@torch.no_grad()
def time_in_turns(
    subject: Subject, pixels: Tensor, repeats: int, layer: int, tick: Callable[[str], None]
) -> dict[str, Samples]:
    """Time every contender `repeats` times on images (B, 3, side, side), after one warm-up turn."""
    clock = Clock(pixels.device)
    found = {name: Samples() for name in CONTENDERS}
    for turn in range(repeats + 1):
        for name, samples in found.items():
            tick(f"{name}, batch {len(pixels)}")
            with ready(subject, name, layer) as handle:
                subject.run(pixels[:1])  # caches what is derived from the weights
                clock.restart()
                clock.mark("start")
                subject.run(pixels)
                clock.mark("end")
                if turn > 0:
                    samples.whole.append(clock.between("start", "end"))
                    if handle is not None and handle.last is not None:
                        samples.choosing.append(handle.last.seconds_choosing)
    return found


def measure(
    subject: Subject,
    repeats: Mapping[int, int] = REPEATS,
    layer: int = LAYER,
    tick: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Measure a subject unpruned, as the oracle and under every setting, at half its patches from `layer` on.

    Returns
    -------
    list
        An entry for each batch size and contender: seconds, their ratio to those of the unpruned model and of
        the oracle, FLOPs per image and their ratio to those of the unpruned model.
    """
    flops = {name: count_flops(subject, name, layer) for name in CONTENDERS}
    entries = []
    for batch, n in repeats.items():
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(batch, 3, subject.side, subject.side, generator=generator)
        found = time_in_turns(subject, pixels, n, layer, tick)
        for name, samples in found.items():
            entry = {
                "batch": batch,
                "name": name,
                "seconds": to_dict(Seconds.of(samples.whole)),
                "choosing_seconds": float(f"{median(samples.choosing):.4g}") if samples.choosing else None,
                "flops_of_a_picture": flops[name],
                "flops_ratio": round(flops[name] / flops[UNPRUNED], 4),
                "vs_unpruned": ratio(samples.whole, found[UNPRUNED].whole),
                "vs_oracle": ratio(samples.whole, found[ORACLE].whole),
            }
            entries.append(entry)
    return entries
