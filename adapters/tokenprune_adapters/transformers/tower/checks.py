# SPDX-License-Identifier: Apache-2.0
"""Refuse cuts that a vision tower cannot make, before the model is modified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenprune import Cut, IncompatibleError
from tokenprune.cut import refuse_adaptive
from tokenprune.towers.checks import FROM_ATTENTION, check_blocks, check_reducer

from ..tap import check_attention
from .cuts import block_signature
from .parts import TowerParts
from .signals import given_by

if TYPE_CHECKING:
    from ..facts import VisionLanguageFacts


def check_tower_cut(adapter: VisionLanguageFacts, cut: Cut) -> None:
    """Raise for a cut at the stage `vision` that this model's tower cannot make.

    Raises
    ------
    IncompatibleError
        With the reason, and what to do.
    UnsupportedModelError
        When the tower's blocks do not take the arguments that a cut shortens.
    """
    method, parts, name = cut.method, adapter.tower(), type(adapter.model).__name__
    if parts is None:
        raise IncompatibleError(
            f"method {method.name!r} cuts inside the vision tower of {name}: {adapter.why_no_tower()}. "
            "Choose a method that cuts at the projector stage"
        )
    if method.schedule is None:
        raise IncompatibleError(
            f"method {method.name!r} does not say before which block of the vision tower of {name} to cut; "
            f"give layer= (0 ... {parts.n_projected - 1}) or schedule={{layer: rows, ...}}"
        )
    boundaries = _boundaries(cut, parts, name)
    _check_tiles(cut, parts, name)
    check_blocks(method, boundaries, given_by(parts))
    check_reducer(method)
    if not parts.packed:
        refuse_adaptive(
            method,
            f"the vision tower of {name} runs all pictures of a call as one batch, of equal lengths",
            cut.budget,
        )
    block_signature(parts)
    if method.needs & FROM_ATTENTION and parts.attention is not None:
        for boundary in boundaries:
            where = f"block {boundary - 1} of {type(parts.module).__name__}"
            check_attention(parts.attention(boundary - 1), where)


def _boundaries(cut: Cut, parts: TowerParts, name: str) -> tuple[int, ...]:
    """The blocks before which tokens are cut; refuse those whose output does not reach the projector."""
    schedule = cut.method.schedule
    assert schedule is not None
    last = parts.n_projected - 1
    try:
        return schedule.boundaries(parts.n_projected)
    except IncompatibleError as error:
        raise IncompatibleError(
            f"method {cut.method.name!r} cannot cut before these blocks of the vision tower of {name}: the "
            f"rows that reach the projector are taken after block {last} of {len(parts.blocks)}, so blocks "
            f"0 ... {last} are possible ({error})"
        ) from error


def _check_tiles(cut: Cut, parts: TowerParts, name: str) -> None:
    """Refuse settings that would keep unequal numbers of the tiles of a batch."""
    method = cut.method
    if not parts.tiled:
        return
    if method.scope != "tile" or method.newlines == "compete":
        raise IncompatibleError(
            f"method {method.name!r} has scope={method.scope!r} and newlines={method.newlines!r}, but the "
            f"vision tower of {name} runs all tiles as one batch, of equal lengths, and newline tokens are "
            "no patches; give scope='tile' and newlines='drop' or 'keep'"
        )
    if cut.min_tokens:
        raise IncompatibleError(
            f"min_tokens={cut.min_tokens} would leave some images whole, but the vision tower of {name} "
            "runs all tiles as one batch, of equal lengths; leave min_tokens out"
        )
