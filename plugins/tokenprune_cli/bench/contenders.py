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
from tokenprune_cli.bench.oracle import Profile, oracle_arguments, shrinking
from tokenprune_cli.bench.workload import Workload, make_workload
from tokenprune_cli.evaluation.downsample import NAME, downsample, grid_side, interpolated_positions

UNPRUNED, DOWNSAMPLE, ORACLE = "unpruned", NAME, "oracle"


@dataclass(frozen=True)
class Contender:
    """A way to run the model: `ready` prepares it while it is timed, making `arguments` is part of the run.

    `keep` is the budget; `profile` the visual rows by layer where they are known beforehand. `first` are
    arguments of an untimed call between the two, for what is made once and kept: a served model is prepared
    once and answers many times.
    """

    name: str
    keep: int | None
    ready: Callable[[], AbstractContextManager[Any]]
    arguments: Callable[[], dict[str, Tensor]]
    profile: Profile | None = None
    first: dict[str, Tensor] | None = None


def unpruned(workload: Workload) -> Contender:
    """Leave the model as it is."""
    profile = ((0, workload.n_visual),)
    return Contender(UNPRUNED, None, nullcontext, lambda: workload.inputs, profile)


def pruned(model: Any, workload: Workload, method: str, keep: int) -> Contender:
    """Prune the model by a method."""
    ready = functools.partial(tokenprune.apply, model, method=method, keep=keep)
    return Contender(method, keep, ready, lambda: workload.inputs, first=workload.first_row())


def smaller_picture(model: Any, workload: Workload, keep: int) -> Contender | str:
    """Give the model smaller pictures of at most `keep` visual tokens; or say why it does not take them."""
    family = model.config.model_type
    if family.startswith("qwen"):
        side = grid_side(keep)
        small = make_workload(model, workload.batch, workload.n_text, side)
        return Contender(DOWNSAMPLE, keep, nullcontext, lambda: small.inputs, ((0, side * side),))
    if family != "llava":
        return f"a {family!r} cuts pictures into tiles, the smallest of which has more visual tokens"
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
