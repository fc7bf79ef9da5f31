# SPDX-License-Identifier: Apache-2.0
"""What was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune.trial import FAILED
from tokenprune_cli.records import Provenance


@dataclass(frozen=True)
class CheckRecord(Provenance):
    """What was checked: `models` as `ModelCheck.to_dict` has them, with a name, and what was `left_out`."""

    passed: bool
    seconds: float
    budget: str
    models: list[dict[str, Any]]
    left_out: list[dict[str, str]]


def is_broken(model: Mapping[str, Any]) -> bool:
    """Whether a promise was broken on a model; none is where no method runs on it."""
    return any(record["outcome"] == FAILED for record in model["records"])
