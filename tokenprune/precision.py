# SPDX-License-Identifier: Apache-2.0
"""Calculating in the number formats the code says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def as_written(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off where it is on: scores are differences of large numbers, and need their float32."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
