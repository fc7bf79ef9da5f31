# SPDX-License-Identifier: Apache-2.0
"""Hold a pruned run against the stock run: what stock passes must pass, but for a list with reasons.

The list is `expected.json`: entries of a test (`Class::test`, `*` stands for anything), modes (likewise, one
or several) and the reason. It is held to what it says: a listed test that passes is as wrong as an unlisted
one that fails.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

LIST = Path(__file__).with_name("expected.json")
Records = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Entry:
    """Tests that fail in some modes, and why they may."""

    test: str
    mode: str
    reason: str

    def is_of(self, mode: str) -> bool:
        """Whether it speaks about a mode."""
        return any(fnmatchcase(mode, one) for one in self.mode.split())

    def covers(self, test: str, mode: str) -> bool:
        """Whether it speaks about a test in a mode."""
        return self.is_of(mode) and fnmatchcase(test, self.test)


@dataclass
class Verdict:
    """What a mode's run shows; it is good where `wrong` is empty."""

    mode: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    expected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def read_list(file: Path = LIST) -> list[Entry]:
    """Read the list."""
    return [Entry(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def read_record(file: Path) -> dict[str, dict[str, object]]:
    """What became of each test.

    Raises
    ------
    ValueError
        When the run ended before all of its tests had run.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    found = {line["test"]: line for line in map(json.loads, lines[1:])}
    if not lines or json.loads(lines[0])["collected"] != len(found):
        collected = json.loads(lines[0])["collected"] if lines else "no"
        raise ValueError(f"the run ended early: {len(found)} of {collected} tests have a result")
    return found


def judge(mode: str, found: Records, stock: Records, entries: Sequence[Entry]) -> Verdict:
    """Compare a run with the stock one; tests that stock fails or skips say nothing about pruning.

    Our own checks may skip themselves, with a reason, where tokens are dropped; nowhere else.
    """
    verdict = Verdict(mode)
    for test, result in found.items():
        outcome = str(result["outcome"])
        setattr(verdict, outcome, getattr(verdict, outcome) + 1)
        if mode == "stock" or stock.get(test, {}).get("outcome") != "passed":
            continue
        listed = [entry for entry in entries if entry.covers(test, mode)]
        if outcome == "failed" and listed:
            verdict.expected.append(f"{test}: {listed[0].reason}")
        elif outcome == "failed":
            verdict.wrong.append(f"{test} fails, and is not listed: {result.get('why', '')}")
        elif outcome == "skipped" and mode.startswith("whole-"):
            verdict.wrong.append(f"{test} is skipped, and passes in stock: {result.get('why', '')}")
        elif outcome == "passed" and listed:
            verdict.wrong.append(f"{test} passes, but is listed: {listed[0].reason}")
    verdict.wrong += [f"{test} passes in stock and was not run" for test in sorted(set(stock) - set(found))]
    return verdict


def unused(entries: Sequence[Entry], runs: Mapping[str, Records]) -> list[Entry]:
    """Entries that speak about no test of the modes that were run, though their modes were."""
    return [
        entry
        for entry in entries
        if any(entry.is_of(mode) for mode in runs)
        and not any(entry.covers(test, mode) for mode, found in runs.items() for test in found)
    ]
