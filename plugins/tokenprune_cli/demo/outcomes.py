# SPDX-License-Identifier: Apache-2.0
"""How one setting did, and which method is best at a budget, noise not read as a win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tokenprune_cli.evaluation import (
    Answered,
    Costs,
    Estimate,
    Setting,
    accuracy,
    family_accuracy,
    paired_gap,
)


@dataclass(frozen=True)
class Outcome:
    """All answers under one setting, and what they cost."""

    setting: Setting
    answers: tuple[Answered, ...]
    costs: Costs

    @cached_property
    def overall(self) -> Estimate:
        """Accuracy over all questions."""
        return accuracy(self.answers)

    @cached_property
    def families(self) -> dict[str, Estimate]:
        """Accuracy of each family."""
        return family_accuracy(self.answers)


@dataclass(frozen=True)
class Verdict:
    """The most accurate methods at one budget, and how far the others are behind on the same questions.

    `best` are several where they are exactly level.
    """

    keep: int
    best: tuple[str, ...]
    accuracy: Estimate
    behind: tuple[tuple[str, Estimate], ...]

    @property
    def within_noise(self) -> tuple[str, ...]:
        """Methods behind the best that these questions do not tell apart from it."""
        return tuple(method for method, gap in self.behind if not gap.is_clear)

    def __str__(self) -> str:
        if len(self.best) == 1 and not self.behind:
            return f"{self.keep} tokens: {self.best[0]} answers {percent(self.accuracy)} right."
        most = "answers most" if len(self.best) == 1 else "answer most, equally many,"
        text = f"{self.keep} tokens: {listed(self.best)} {most} of {self.accuracy.n} right, "
        text += percent(self.accuracy)
        level = [_gap(method, gap) for method, gap in self.behind if not gap.is_clear]
        behind = [_gap(method, gap) for method, gap in self.behind if gap.is_clear]
        if level:
            text += f"; within noise of it: {', '.join(level)}"
        if behind:
            text += f"; behind: {', '.join(behind)}"
        return text + "."


def verdicts(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """One verdict for each budget, the largest first."""
    budgets = dict.fromkeys(o.setting.keep for o in outcomes if o.setting.keep is not None)
    found = []
    for keep in budgets:
        ranked = sorted(
            (o for o in outcomes if o.setting.keep == keep), key=lambda o: o.overall.value, reverse=True
        )
        top = ranked[0]
        best = [o for o in ranked if o.overall.value == top.overall.value]
        gaps = tuple(
            (o.setting.method or "", paired_gap(top.answers, o.answers)) for o in ranked[len(best) :]
        )
        found.append(Verdict(keep, tuple(o.setting.method or "" for o in best), top.overall, gaps))
    return found


def closing_line(found: Sequence[Verdict], recommended: str) -> str:
    """Say plainly how one method did: clearly the best, not told apart from the best, or behind."""
    places: dict[str, list[str]] = {}
    for verdict in found:
        if len(verdict.best) + len(verdict.behind) < 2:
            continue  # nothing to be better than
        if verdict.best == (recommended,) and not verdict.within_noise:
            place = "clearly the best"
        elif recommended in (*verdict.best, *verdict.within_noise):
            place = "among the best, which noise does not tell apart,"
        elif recommended in dict(verdict.behind):
            place = "behind the best"
        else:
            continue
        places.setdefault(place, []).append(str(verdict.keep))
    if not places:
        return ""
    parts = [f"{place} at {listed(budgets)} tokens" for place, budgets in places.items()]
    return f"On these scenes {recommended}, which tokenprune uses by default, is {listed(parts)}."


def percent(estimate: Estimate) -> str:
    """Write as "88.1 ± 1.3 %", without the error where it is unknown."""
    return f"{100 * estimate.value:.1f}{_error(estimate)} %"


def _gap(method: str, gap: Estimate) -> str:
    if gap.value == 0:
        return f"{method} (equal)"
    return f"{method} ({100 * gap.value:.1f}{_error(gap)} points behind)"


def _error(estimate: Estimate) -> str:
    known = estimate.standard_error != float("inf")
    return f" ± {100 * estimate.standard_error:.1f}" if known else ""


def listed(words: Sequence[str]) -> str:
    """Join words as in: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
