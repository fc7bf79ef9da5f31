# SPDX-License-Identifier: Apache-2.0
"""Copies of a model that `torch.nn.DataParallel` makes for each call."""

from __future__ import annotations

from torch import nn

from .errors import UnsupportedCallError


def refuse_replica(module: nn.Module) -> None:
    """Raise if a hooked module is a copy for another device: the hooks are those of the original.

    Raises
    ------
    UnsupportedCallError
        Naming what to use instead.
    """
    if getattr(module, "_is_replica", False):
        raise UnsupportedCallError(
            "nn.DataParallel calls copies of the pruned model, which share its hooks and cannot be pruned. "
            "Use DistributedDataParallel with one process per device (torchrun, accelerate launch), or make "
            "only one device visible: trainers use nn.DataParallel where they find several"
        )
