# SPDX-License-Identifier: Apache-2.0
"""Control of the precision that strategies compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast: scores are differences of large numbers and need float32."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def float64_device(device: torch.device) -> torch.device:
    """Return where to compute in float64 for tensors on `device`: there, or on the CPU if it has no float64.

    Apple's GPUs (mps) have none, nor have some of Intel's (xpu).
    """
    lacks = device.type == "mps"
    if device.type == "xpu":
        lacks = not torch.xpu.get_device_properties(device).has_fp64
    return torch.device("cpu") if lacks else device


def in_float64(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, on the CPU if its device has none."""
    return tensor.to(float64_device(tensor.device)).double()
