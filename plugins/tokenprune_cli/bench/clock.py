# SPDX-License-Identifier: Apache-2.0
"""Times of a run, by the host's clock or by events in the stream of an NVIDIA GPU; and peak memory."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Marks moments by name, and returns the seconds between two of them."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._marks: dict[str, Any] = {}

    def restart(self) -> None:
        """Forget all moments, after the GPU has finished its work."""
        self._marks.clear()
        if self.on_gpu:
            torch.cuda.synchronize()

    def mark(self, name: str) -> None:
        """Store this moment, unless there is one of this name."""
        if name in self._marks:
            return
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks[name] = event
        else:
            self._marks[name] = time.perf_counter()

    def between(self, first: str, second: str) -> float:
        """Return the seconds from one moment to another."""
        if not self.on_gpu:
            return float(self._marks[second] - self._marks[first])
        torch.cuda.synchronize()
        return float(self._marks[first].elapsed_time(self._marks[second])) / 1e3


class PeakMemory:
    """Peak memory since `restart`: of the GPU, or of this process (on Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def restart(self) -> None:
        """Reset the peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # resets the peak of the process

    def bytes(self) -> int | None:
        """Return the peak, or None if it is not known."""
        return int(torch.cuda.max_memory_allocated()) if self.on_gpu else proc_bytes(STATUS, "VmHWM")


def proc_bytes(path: Path, name: str) -> int | None:
    """Return the value of a field in a file of Linux's /proc, or None if there is no such field."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
