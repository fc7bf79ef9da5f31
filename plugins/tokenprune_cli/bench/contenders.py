# SPDX-License-Identifier: Apache-2.0
"""What is timed against each other: the unpruned model, methods, smaller images and oracles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

import tokenprune
from tokenprune_cli.bench.oracle import Profile, oracle_arguments, shrinking
from tokenprune_cli.bench.workload import Workload, make_workload
from tokenprune_cli.evaluation.downsample import NAME, downsample, grid_side, interpolated_positions

UNPRUNED, DOWNSAMPLE, ORACLE = "unpruned", NAME, "oracle"


@dataclass(frozen=True)
class Contender:
    """A way to run the model.

    `ready` prepares the model for as long as it is timed; making the `arguments` is part of the timed run.
    `keep` is the budget, `profile` the visual rows by layer if they are known in advance. `first` are the
    arguments of an untimed call between the two, so that what is computed once and kept is not timed: a
    served model is prepared once and answers many times.
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
    ready = partial(tokenprune.apply, model, method=method, keep=keep)
    return Contender(method, keep, ready, lambda: workload.inputs, first=workload.first_row())


def downsampled(model: Any, workload: Workload, keep: int) -> Contender:
    """Give the model smaller images, of at most `keep` visual tokens.

    Raises
    ------
    IncompatibleError
        If the model does not accept smaller images.
    """
    family, side = model.config.model_type, grid_side(keep)
    if family.startswith("qwen"):
        small = make_workload(model, workload.batch, workload.n_text, side)
        return Contender(DOWNSAMPLE, keep, nullcontext, lambda: small.inputs, ((0, side * side),))
    if family != "llava":
        raise tokenprune.IncompatibleError(
            f"a {family!r} cuts images into tiles, the smallest of which has more visual tokens"
        )
    patch = model.config.vision_config.patch_size
    inputs = downsample(workload.inputs, model.config.image_token_id, patch, keep)
    profile = ((0, min(side * side, workload.n_visual)),)
    return Contender(DOWNSAMPLE, keep, partial(interpolated_positions, model), lambda: inputs, profile)


def oracle(model: Any, workload: Workload, profile: Profile, keep: int) -> Contender:
    """Give the model only the rows that remain after each cut."""
    ready = partial(shrinking, model, profile, workload.n_text)
    arguments = partial(oracle_arguments, model, workload, profile)
    return Contender(ORACLE, keep, ready, arguments, profile)
