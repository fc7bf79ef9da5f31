# SPDX-License-Identifier: Apache-2.0
"""What is timed against each other: the unpruned model, methods, smaller images and oracles."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenprune_evaluation.downsample import NAME, downsample, grid_side, interpolated_positions
from tokenprune_evaluation.named_methods import method_named
from tokenprune_evaluation.tower_cut import TowerCut
from torch import Tensor

import tokenprune
from tokenprune_cli.bench.oracle import Profile, oracle_arguments, shrinking
from tokenprune_cli.bench.tower_oracle import check_tower
from tokenprune_cli.bench.workload import Workload, make_workload

UNPRUNED, DOWNSAMPLE, ORACLE, TOWER_ORACLE = "unpruned", NAME, "oracle", "tower oracle"


@dataclass(frozen=True)
class Contender:
    """A way to run the model.

    `ready` prepares the model for as long as it is timed; making the `arguments` is part of the timed run.
    `keep` is the budget. `profile` are the visual rows by layer, and `tower` the tokens left from a block of
    the vision tower on, if they are known in advance. `first` are the arguments of an untimed call between
    the two, so that what is computed once and kept is not timed: a served model is prepared once and answers
    many times. `picture` is the size (height, width) of an image, or of each of its tiles, in visual tokens.
    """

    name: str
    keep: int | None
    ready: Callable[[], AbstractContextManager[Any]]
    arguments: Callable[[], dict[str, Tensor]]
    profile: Profile | None = None
    first: dict[str, Tensor] | None = None
    tower: Profile = ()
    picture: tuple[int, int] | None = None


def unpruned(workload: Workload) -> Contender:
    """Leave the model as it is."""
    profile = ((0, workload.n_visual),)
    picture = workload.picture
    return Contender(UNPRUNED, None, nullcontext, lambda: workload.inputs, profile, picture=picture)


def pruned(model: Any, workload: Workload, method: str, keep: int) -> Contender:
    """Prune the model by a method, whose name may have options."""
    return _pruned(model, workload, method, keep, method=method_named(method), keep=keep)


def tower_name(cut: TowerCut) -> str:
    """Return the name of the contender that makes a cut inside the vision tower."""
    return f"tower {cut.method}"


def pruned_in_tower(model: Any, workload: Workload, cut: TowerCut, keep: int) -> Contender:
    """Prune the model inside its vision tower, and then before the language model if `keep` is smaller.

    Raises
    ------
    IncompatibleError
        If the model's tower has no oracle.
    """
    check_tower(model.config)
    stages = [(tokenprune.method(cut.method, stage="vision", layer=cut.layer), cut.keep)]
    if keep < cut.keep:
        stages.append((tokenprune.method(cut.method), keep))
    methods, keeps = map(list, zip(*stages, strict=True))
    return _pruned(model, workload, tower_name(cut), keep, method=methods, keep=keeps)


def _pruned(model: Any, workload: Workload, name: str, budget: int, **settings: Any) -> Contender:
    """Prune the model with settings of `tokenprune.apply`."""
    ready, first = partial(tokenprune.apply, model, **settings), workload.first_row()
    return Contender(name, budget, ready, lambda: workload.inputs, first=first, picture=workload.picture)


def downsampled(model: Any, workload: Workload, keep: int) -> Contender:
    """Give the model smaller images, of at most `keep` visual tokens.

    Raises
    ------
    IncompatibleError
        If the model does not accept smaller images.
    """
    family = model.config.model_type
    if family.startswith("qwen"):
        picture = small_picture(workload.picture, keep)
        small = make_workload(model, workload.batch, workload.n_text, picture)
        profile: Profile = ((0, small.n_visual),)
        return Contender(DOWNSAMPLE, keep, nullcontext, lambda: small.inputs, profile, picture=picture)
    if family != "llava":
        raise tokenprune.IncompatibleError(
            f"a {family!r} cuts images into tiles, the smallest of which has more visual tokens"
        )
    patch = model.config.vision_config.patch_size
    inputs = downsample(workload.inputs, model.config.image_token_id, patch, keep)
    side = min(grid_side(keep), workload.picture[0])
    ready = partial(interpolated_positions, model)
    return Contender(DOWNSAMPLE, keep, ready, lambda: inputs, ((0, side * side),), picture=(side, side))


def small_picture(picture: tuple[int, int], keep: int) -> tuple[int, int]:
    """Return the size of an image of the same shape, up to rounding, of at most `keep` visual tokens."""
    height, width = picture
    if keep >= height * width:
        return picture
    lines = max(1, math.isqrt(keep * height // width))
    return lines, max(1, min(math.isqrt(keep * width // height), keep // lines))


def oracle(model: Any, workload: Workload, profile: Profile, keep: int, tower: Profile = ()) -> Contender:
    """Give the model only the rows that remain after each cut."""
    ready = partial(shrinking, model, profile, workload.n_text)
    arguments = partial(oracle_arguments, model, workload, profile, tower)
    name = TOWER_ORACLE if tower else ORACLE
    return Contender(name, keep, ready, arguments, profile, tower=tower, picture=workload.picture)
