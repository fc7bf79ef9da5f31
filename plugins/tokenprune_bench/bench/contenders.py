# SPDX-License-Identifier: Apache-2.0
"""What is timed against each other: the model as it is, methods, smaller pictures, oracles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import tokenprune
from tokenprune_bench.bench.oracle import Profile, oracle_arguments, shrinking
from tokenprune_bench.bench.workload import Workload
from tokenprune_bench.evaluation.downsample import NAME, downsample, grid_side, interpolated_positions

UNPRUNED, DOWNSAMPLE, ORACLE = "unpruned", NAME, "oracle"


@dataclass(frozen=True)
class Contender:
    """A way to run the model: `ready` prepares it while it is timed, making `arguments` is part of the run.

    `keep` is the budget; `profile` the visual rows by layer where they are known beforehand.
    """

    name: str
    keep: int | None
    ready: Callable[[], AbstractContextManager[Any]]
    arguments: Callable[[], dict[str, Tensor]]
    profile: Profile | None = None


def unpruned(workload: Workload) -> Contender:
    """Leave the model as it is."""
    profile = ((0, workload.n_visual),)
    return Contender(UNPRUNED, None, nullcontext, lambda: workload.inputs, profile)


def pruned(model: Any, workload: Workload, method: str, keep: int) -> Contender:
    """Prune the model by a method."""
    ready = functools.partial(tokenprune.apply, model, method=method, keep=keep)
    return Contender(method, keep, ready, lambda: workload.inputs)


def smaller_picture(model: Any, workload: Workload, keep: int) -> Contender | None:
    """Give the model smaller pictures; None for models that do not take them like this."""
    if model.config.model_type != "llava":
        return None
    patch = model.config.vision_config.patch_size
    inputs = downsample(workload.inputs, model.config.image_token_id, patch, keep)
    ready = functools.partial(interpolated_positions, model)
    rows = min(grid_side(keep) ** 2, workload.n_visual)
    return Contender(DOWNSAMPLE, keep, ready, lambda: inputs, ((0, rows),))


def oracle(model: Any, workload: Workload, profile: Profile, keep: int) -> Contender:
    """Feed the model only what is left after each cut."""

    @contextmanager
    def ready() -> Iterator[None]:
        with shrinking(model, profile, workload.n_text):
            yield

    arguments = functools.partial(oracle_arguments, model, workload, profile)
    return Contender(ORACLE, keep, ready, arguments, profile)
