# SPDX-License-Identifier: Apache-2.0
"""Rows of published tables, each with the one command of lmms-eval that measures all its cells."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

DATA = Path(__file__).parents[2] / "docs" / "data"


@dataclass(frozen=True)
class Cell:
    """One published figure.

    Parameters
    ----------
    benchmark
        The column's name.
    published
        The figure as printed, empty if there is none.
    task
        The task of lmms-eval that measures it.
    result
        The figure in that task's results, as in benchmarks.csv.
    maximum
        The largest possible figure.
    """

    benchmark: str
    published: str
    task: str
    result: str
    maximum: float


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Parameters
    ----------
    table
        Name of the table, or of the model for figures that were not published.
    command
        What `commands.csv` says, without tasks and output; None if this package cannot run the row.
    """

    table: str
    model: str
    tokens: str
    method: str
    cells: tuple[Cell, ...]
    command: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """Table, method and tokens, as in "table-b/ZOO-Prune/64"; also a path."""
        method, tokens = self.method.replace(" ", "-"), self.tokens.replace(" ", "")
        return f"{self.table}/{method}/{tokens}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all cells, each once."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    def argument(self, option: str) -> str | None:
        """Return the value of an option of the command, None if it is not given."""
        words = self.command or ()
        return words[words.index(option) + 1] if option in words[:-1] else None

    def with_benchmarks(self, names: Collection[str]) -> Row:
        """Return the row with these columns only."""
        return replace(self, cells=tuple(cell for cell in self.cells if cell.benchmark in names))


def read_rows(folder: Path = DATA) -> list[Row]:
    """Read the rows of `table-*.csv`, then those that only `commands.csv` has.

    Raises
    ------
    ValueError
        If the files disagree about a figure, or the commands of a row in more than their task.
    """
    benchmarks = {line["column"]: line for line in _lines(folder / "benchmarks.csv")}

    def cell(benchmark: str, published: str) -> Cell:
        about = benchmarks[benchmark]
        return Cell(benchmark, published, about["task"], about["result"], float(about["maximum"]))

    commands: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for line in _lines(folder / "commands.csv"):
        table = line["table"] or line["model"].lower()
        commands.setdefault((table, line["method"], line["tokens"]), []).append(line)
    rows = []
    for path in sorted(folder.glob("table-*.csv")):
        models = [
            line["model"] for (table, *_), lines in commands.items() if table == path.stem for line in lines
        ]
        for figures in _lines(path):
            tokens, method = figures.pop("tokens"), figures.pop("method")
            figures.pop("average", None)
            cells = tuple(cell(name, figure) for name, figure in figures.items())
            row = Row(path.stem, models[0] if models else "", tokens, method, cells)
            lines = commands.pop((path.stem, method, tokens), [])
            if lines and {line["benchmark"]: line["published"] for line in lines} != figures:
                raise ValueError(f"commands.csv and {path.name} have different figures for {row.name}")
            rows.append(replace(row, command=_shared_command(row, lines)) if lines else row)
    for (table, method, tokens), lines in commands.items():
        cells = tuple(cell(line["benchmark"], line["published"]) for line in lines)
        row = Row(table, lines[0]["model"], tokens, method, cells)
        rows.append(replace(row, command=_shared_command(row, lines)))
    return rows


def select_rows(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """Return the rows of the named tables, methods of a table, or rows, in their order.

    Raises
    ------
    ValueError
        If a name is unknown or no row of that name has a command.
    """
    chosen: set[str] = set()
    for name in names:
        words = name.lower().strip("/").split("/")
        found = [row for row in rows if row.name.lower().split("/")[: len(words)] == words]
        if not found:
            listed = "\n  ".join(dict.fromkeys([*(row.table for row in rows), *(row.name for row in rows)]))
            raise ValueError(f"there is no table or row {name!r}; there are\n  {listed}")
        if all(row.command is None for row in found):
            raise ValueError(f"{name} has no command: no strategy of this package runs it")
        chosen |= {row.name for row in found}
    return [row for row in rows if row.name in chosen]


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _shared_command(row: Row, lines: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Return the words that the commands of a row share."""
    found = set()
    for cell, line in zip(row.cells, lines, strict=True):
        words = shlex.split(line["command"])
        if "--tasks" not in words or words[words.index("--tasks") + 1] != cell.task:
            raise ValueError(f"commands.csv has no --tasks {cell.task} for {cell.benchmark} of {row.name}")
        for option in ("--tasks", "--output_path"):
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        found.add(tuple(words))
    if len(found) != 1:
        raise ValueError(f"the commands of {row.name} in commands.csv differ in more than their task")
    return found.pop()
