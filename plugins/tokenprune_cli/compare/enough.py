# SPDX-License-Identifier: Apache-2.0
"""Whether there are enough questions and pictures to say which method is best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEWEST = 30  # questions, and pictures: with fewer, bootstrap intervals are too narrow


def too_few(record: Mapping[str, Any]) -> str | None:
    """Return why a record has no verdict: fewer than `FEWEST` questions or pictures; None if it has one."""
    counts = [f"{record[what]} {what}" for what in ("questions", "pictures") if record[what] < FEWEST]
    if not counts:
        return None
    return f"too few to say which method is best: {', '.join(counts)}; it takes at least {FEWEST}"
