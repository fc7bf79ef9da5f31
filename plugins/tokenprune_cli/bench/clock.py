# SPDX-License-Identifier: Apache-2.0
"""Moments of a run: the host's clock, or events in the stream of an NVIDIA GPU; and peak memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Marks moments by name; seconds between two of them."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._marks: dict[str, Any] = {}

    def restart(self) -> None:
        """Forget all moments, once everything that runs has come to its end."""
        self._marks.clear()
        if self.on_gpu:
            torch.cuda.synchronize()

    def mark(self, name: str) -> None:
        """Remember this moment; the first of a name counts."""
        if name in self._marks:
            return
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks[name] = event
        else:
            self._marks[name] = time.perf_counter()

    def between(self, first: str, second: str) -> float:
        """Seconds from one moment to another."""
        if not self.on_gpu:
            return float(self._marks[second] - self._marks[first])
        torch.cuda.synchronize()
        return float(self._marks[first].elapsed_time(self._marks[second])) / 1e3


class PeakMemory:
    """Most memory in use since `restart`: of the GPU, or of this process (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def restart(self) -> None:
        """Begin anew."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            CLEAR.write_text("5")  # sets the process's peak to what it holds now
        except OSError:
            pass

    def bytes(self) -> int | None:
        """The peak; None where it cannot be told."""
        if self.on_gpu:
            return int(torch.cuda.max_memory_allocated())
        try:
            lines = STATUS.read_text().splitlines()
        except OSError:
            return None
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return 1024 * kilobytes[0] if kilobytes else None
