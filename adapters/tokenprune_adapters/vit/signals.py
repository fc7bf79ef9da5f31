# SPDX-License-Identifier: Apache-2.0
"""Signals of a tower at a cut, for a stack of images; shapes as in `tokenprune.signals`, with leading B."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from tokenprune.towers.checks import FROM_ATTENTION, FROM_CLASS_TOKEN, PIXELS, SIZES

from . import attention
from .attention import QueryKeyTap
from .tower import Tower

OF_ATTENTION = {
    "cls_attention": attention.cls_attention,
    "received_attention": attention.received_attention,
    "key_metric": attention.key_metric,
}
FROM_HEAD = frozenset({"pre_features", "projector"})


def given_by(tower: Tower) -> frozenset[str]:
    """Names of the signals that this tower provides."""
    provided = FROM_ATTENTION | FROM_CLASS_TOKEN | FROM_HEAD | {PIXELS, SIZES}
    if not tower.has_attention():
        provided -= FROM_ATTENTION
    if not tower.has_class_token:
        provided -= FROM_CLASS_TOKEN
    if tower.patch is None:
        provided -= {PIXELS}
    return provided if tower.head is not None else provided - FROM_HEAD


def tower_signals(
    tower: Tower,
    tap: QueryKeyTap | None,
    rows: Tensor,
    needs: frozenset[str],
    sizes: Tensor,
) -> dict[str, Any]:
    """Signals for the rows (B, n_prefix + N, D) that enter the block of the cut, computed on demand.

    `pre_features` (B, N, D) are the rows at the cut, and `projector` is the map from such a row to the
    tower's output, whose weights are read only if it is among the `needs`. Attention is that of the block
    before, recorded by `tap`. `sizes` (B, N) are the patches that each row stands for.
    """
    signals: dict[str, Any] = {SIZES: sizes}
    if tower.head is not None:
        patches = rows[:, tower.n_prefix :]
        signals["pre_features"] = partial(tower.head.pre_features, patches)
        if "projector" in needs:
            signals["projector"] = tower.head.projector()
    if tower.has_class_token:
        signals["cls_hidden"] = rows[:, :1]  # (B, 1, D)
    if tap is not None:
        for name, compute in OF_ATTENTION.items():
            if name not in FROM_CLASS_TOKEN or tower.has_class_token:
                signals[name] = partial(compute, tap, tower.n_prefix)
    return signals
