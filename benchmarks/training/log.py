# SPDX-License-Identifier: Apache-2.0
"""Training log with one JSON object per line."""

from __future__ import annotations

import json
import time
from pathlib import Path

_LINES_PER_PHASE = 14


class TrainingLog:
    """Writes a line after each validation, with the mean loss since the last line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.write_text("")
        self._start = time.monotonic()
        self._losses: list[float] = []
        self._line: dict[str, object] = {}

    def step(self, phase: str, step: int, images: int, loss: float) -> None:
        """Record a training step."""
        self._losses.append(loss)
        self._line = {"phase": phase, "step": step, "images": images}

    def is_due(self, step: int, n_steps: int) -> bool:
        """Return whether to validate after this step."""
        return step == n_steps or step % max(1, n_steps // _LINES_PER_PHASE) == 0

    def validation(self, figures: dict[str, float]) -> None:
        """Write a line with figures of the validation scenes."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        self.write({**self._line, "loss": round(loss, 4), "validation": figures})

    def write(self, entry: dict[str, object]) -> None:
        """Write an entry, with the seconds since the start."""
        entry = {**entry, "seconds": round(time.monotonic() - self._start)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)
