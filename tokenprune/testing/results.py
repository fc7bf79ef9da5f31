# SPDX-License-Identifier: Apache-2.0
"""What a check of a model found, and how it is told."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..trial import FAILED, NOT_APPLICABLE, PASSED, PromiseRecord


@dataclass(frozen=True)
class ModelCheck:
    """All promises of one model with the methods that were tried.

    `settings` are those the answers depend on (attention implementation and the like), as the adapter calls
    them; `budget` is what the methods were to keep, as text; `seconds` the time all of it took.
    """

    model: str
    adapter: str
    device: str
    dtype: str
    settings: Mapping[str, str]
    budget: str
    records: tuple[PromiseRecord, ...]
    seconds: float

    @property
    def failures(self) -> tuple[PromiseRecord, ...]:
        """The promises that were broken."""
        return tuple(record for record in self.records if record.outcome == FAILED)

    @property
    def passed(self) -> bool:
        """Whether something was checked and no promise was broken."""
        return not self.failures and any(record.outcome == PASSED for record in self.records)

    def worst(self, promise: str) -> PromiseRecord | None:
        """The record of a promise that is nearest to breaking it, or furthest beyond; None: unchecked."""
        of_it = [r for r in self.records if r.promise == promise and r.outcome != NOT_APPLICABLE]
        return max(of_it, key=_severity, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it; differences that are no numbers are None."""
        whole = dataclasses.asdict(self) | {"passed": self.passed}
        whole["settings"] = dict(self.settings)
        whole["records"] = [_plain(record) for record in whole["records"]]
        return whole

    def to_json(self, indent: int | None = 1) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        if self.passed:
            n = len({r.method for r in self.records if r.outcome == PASSED})
            return f"{self.model}: every promise was kept by {n} method(s)"
        if not self.failures:
            return f"{self.model}: nothing could be checked: {_sentences(self.records[:1])}"
        return f"{self.model}: {len(self.failures)} promise(s) broken: {_sentences(self.failures)}"


def _severity(record: PromiseRecord) -> tuple[bool, float]:
    difference, allowed = record.difference, record.allowed
    if difference is None or allowed is None:
        return record.outcome == FAILED, math.inf
    if math.isnan(difference):
        return True, math.inf
    return record.outcome == FAILED, difference / allowed if allowed else difference


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    difference = record["difference"]
    if difference is None or math.isfinite(difference):
        return record
    return record | {"difference": None, "note": record["note"] or f"the difference is {difference}"}


def _sentences(records: tuple[PromiseRecord, ...]) -> str:
    return "; ".join(_sentence(record) for record in records)


def _sentence(record: PromiseRecord) -> str:
    said = f"{record.promise} with {record.method}"
    if record.difference is not None:
        said += f" (off by {record.difference:.1e}, {record.allowed:.1e} is allowed)"
    return f"{said}: {record.note}" if record.note else said
