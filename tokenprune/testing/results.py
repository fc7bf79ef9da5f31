# SPDX-License-Identifier: Apache-2.0
"""The result of checking a model, with its JSON and text forms."""

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
    """Records of all promises of a model, with every method that was tried.

    `settings` are those that the outputs depend on (such as the attention implementation), named by the
    adapter; `budget` describes the budget of the methods; `seconds` is the time of the whole check.
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
        """Records of broken promises."""
        return tuple(record for record in self.records if record.outcome == FAILED)

    @property
    def passed(self) -> bool:
        """Whether something was checked and no promise was broken."""
        return not self.failures and any(record.outcome == PASSED for record in self.records)

    def worst(self, promise: str) -> PromiseRecord | None:
        """Return the record of a promise with the worst outcome, or None if it was not checked."""
        checked = [r for r in self.records if r.promise == promise and r.outcome != NOT_APPLICABLE]
        return max(checked, key=_severity, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary; differences that are not finite are None."""
        whole = dataclasses.asdict(self) | {"passed": self.passed}
        whole["settings"] = dict(self.settings)
        whole["records"] = [_plain(record) for record in whole["records"]]
        return whole

    def to_json(self, indent: int | None = 1) -> str:
        """Return `to_dict` as a JSON string."""
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
    sentence = f"{record.promise} with {record.method}"
    if record.difference is not None:
        sentence += f" (off by {record.difference:.1e}, {record.allowed:.1e} is allowed)"
    return f"{sentence}: {record.note}" if record.note else sentence
