# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/speed.md: what `tokenprune bench` and `python -m benchmarks.official` measured."""

from __future__ import annotations

from tokenprune_cli.bench.record import BenchRecord
from tokenprune_cli.bench.table import full_table
from tokenprune_cli.records import from_dict

from benchmarks.official.sentences import official_lines

from .sources import NOT_MEASURED, Blocks, has_record, read_record, render
from .speed_goals import goals, official_goals


def speed(preset: str) -> str:
    """Table, provenance and goals of one preset's record."""
    if not has_record(preset):
        return NOT_MEASURED
    record = read_record(preset)
    table = full_table(from_dict(BenchRecord, record))
    return render("speed", record=record, table=table.markdown(), goals=goals(record))


def official() -> str:
    """The official algorithms beside ours."""
    record = read_record("official")
    return render("official", record=record, lines=official_lines(record), goals=official_goals(record))


BLOCKS: Blocks = {"speed": speed, "official": official}
