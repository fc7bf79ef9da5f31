# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/studies.md: what `python -m benchmarks.studies NAME` measured.

The figures in the page's findings are blocks. The words around them are not: tests/docs/test_studies_page.py
checks what they claim against the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_evaluation.records import from_dict

from benchmarks.studies.study import StudyRecord
from benchmarks.studies.table import ranking_table, score_table, verdict

from .sources import Blocks, read_record, render


def study(name: str) -> str:
    """Provenance, tables and verdicts of one study."""
    record = _read(name)
    whole = from_dict(StudyRecord, record)
    tables = [table.markdown() for table in (score_table(whole), ranking_table(whole)) if table.rows]
    return render("study", record=record, tables=tables, verdicts=verdicts(record))


def verdicts(record: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """By number of kept tokens: which variants are better than the base, worse, or within noise."""
    groups: dict[str, dict[str, list[str]]] = {}
    for cell in record["cells"]:
        if cell["above_base"] is not None:
            budget = groups.setdefault(f"{cell['kept']:g}", {"better": [], "worse": [], "noise": []})
            budget[verdict(cell["above_base"])].append(cell["variant"])
    return groups


def questions() -> str:
    """What the studies asked, as in "541 questions about 40 embedded scenes"."""
    asked = _read("layers")["questions"]
    return f"{asked['count']} questions about {asked['name']}"


def right(study: str, variant: str, kept: str) -> str:
    """Share of right answers, as in "26.4 %"."""
    return f"{100 * _cell(study, variant, kept)['score']['value']:.1f} %"


def points(study: str, variant: str, kept: str) -> str:
    """Points above or below the base, without the sign."""
    return f"{100 * abs(_cell(study, variant, kept)['above_base']['value']):.1f}"


def spearman(study: str, ranking: str, against: str, floor: str | None = None) -> str:
    """Mean rank correlation."""
    return f"{_pair(study, ranking, against, floor)['spearman']['mean']:.2f}"


def common(study: str, ranking: str, against: str) -> str:
    """Share of the kept tokens in common, as in "98 %"."""
    return f"{100 * _pair(study, ranking, against, None)['kept_in_common']['mean']:.0f} %"


def tokens(study: str, ranking: str, against: str, floor: str) -> str:
    """Number of tokens that reach the floor, mean over pictures."""
    return f"{_pair(study, ranking, against, floor)['tokens']:.0f}"


def _read(study: str) -> dict[str, Any]:
    return read_record(f"studies/{study}")


def _cell(study: str, variant: str, kept: str) -> dict[str, Any]:
    for cell in _read(study)["cells"]:
        if (cell["variant"], cell["kept"]) == (variant, float(kept)):
            return dict(cell)
    raise ValueError(f"the study {study!r} has no variant {variant!r} with {kept} tokens")


def _pair(study: str, ranking: str, against: str, floor: str | None) -> dict[str, Any]:
    wanted = (ranking, against, None if floor is None else float(floor))
    for pair in _read(study)["rankings"]:
        if (pair["of"], pair["against"], pair["floor"]) == wanted:
            return dict(pair)
    raise ValueError(f"the study {study!r} does not compare the rankings {wanted}")


BLOCKS: Blocks = {
    "study": study,
    "questions": questions,
    "right": right,
    "points": points,
    "spearman": spearman,
    "common": common,
    "tokens": tokens,
}
