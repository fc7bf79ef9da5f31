# SPDX-License-Identifier: Apache-2.0
"""Format the results of a study as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_evaluation.tables import Table

from benchmarks.studies.study import StudyRecord


def score_table(record: StudyRecord) -> Table:
    """Return a row for each variant at each budget: score and difference to the base, in per cent."""
    heads = ("tokens kept", "variant", "right %", f"above {record.base}", "which is")
    rows = []
    for cell in record.cells:
        gap = "" if cell["above_base"] is None else interval(cell["above_base"], signed=True)
        word = "" if cell["above_base"] is None else verdict(cell["above_base"])
        name = cell["variant"] + (" (the base)" if cell["variant"] == record.base else "")
        rows.append((f"{cell['kept']:g}", name, interval(cell["score"]), gap, word))
    return Table(heads, rows, align="lllll", wrap=True)


def ranking_table(record: StudyRecord) -> Table:
    """Return a row for each pair of rankings: correlation and common picks, means and quartiles."""
    heads = ("ranking", "against", "tokens", "Spearman (quartiles)", "kept in common % (quartiles)")
    rows = []
    for pair in record.rankings:
        which = "all" if pair["floor"] is None else f"at least {pair['floor']:g}"
        which = f"{pair['tokens']:g} ({which})"
        common = pair["kept_in_common"]
        rows.append((pair["of"], pair["against"], which, _spread(pair["spearman"], 1), _spread(common, 100)))
    return Table(heads, rows, align="lllll", wrap=True)


def interval(share: Mapping[str, Any], signed: bool = False) -> str:
    """Format a share in per cent with its 95 % interval."""
    form = "{:+.1f}" if signed else "{:.1f}"
    value = form.format(100 * share["value"])
    if share["low"] is None:
        return value
    return f"{value} ({form.format(100 * share['low'])} to {form.format(100 * share['high'])})"


def verdict(gap: Mapping[str, Any]) -> str:
    """Return the verdict on a difference: noise if its interval contains 0, else better or worse."""
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return "noise"
    return "better" if gap["value"] > 0 else "worse"


def _spread(spread: Mapping[str, Any], scale: int) -> str:
    if spread["mean"] is None:
        return "none"
    mean, low, high = (scale * spread[name] for name in ("mean", "low", "high"))
    form = "{:.2f} ({:.2f} to {:.2f})" if scale == 1 else "{:.0f} ({:.0f} to {:.0f})"
    return form.format(mean, low, high)
