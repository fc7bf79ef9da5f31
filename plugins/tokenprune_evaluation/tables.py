# SPDX-License-Identifier: Apache-2.0
"""Tables for the terminal, for Markdown and for HTML."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import rich.box
import rich.table
from rich.text import Text

if TYPE_CHECKING:
    import jinja2


@cache
def templates(folder: Path) -> jinja2.Environment:
    """Return the environment of the templates in a package's folder, which are named by their paths in it."""
    import jinja2

    loader = jinja2.FileSystemLoader(folder)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class Table:
    """Headings and rows of strings, written for the terminal, for Markdown or for HTML.

    Parameters
    ----------
    heads
        Headings of the columns. A line break in a heading is a space in Markdown and HTML.
    rows
        A row has a cell for each heading, or a single cell: the title of the rows below it.
    title
        Title above the table.
    align
        A letter for each column, `l` or `r`. None aligns the first column left and the others right.
    styles
        Styles of rows, by row number: the name of a rich style, or the class of the row in HTML.
    sections
        Numbers of the rows that start a section, separated by space. Rows of a single cell start one too.
    wrap
        Whether to wrap long cells if the terminal is narrow; otherwise they are cut off.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    align: str | None = None
    styles: Mapping[int, str] = field(default_factory=dict)
    sections: Collection[int] = ()
    wrap: bool = False

    def __post_init__(self) -> None:
        n = len(self.heads)
        if self.align is not None and (len(self.align) != n or set(self.align) - set("lr")):
            raise ValueError(f"align takes a letter for each of {n} columns, l or r, not {self.align!r}")
        for i, row in enumerate(self.rows):
            if len(row) not in (1, n):
                raise ValueError(f"row {i} has {len(row)} cells and the table {n} columns: {list(row)}")

    def rich(self) -> rich.table.Table:
        """Return the table for `rich.console.Console.print`; cells are not markup."""
        table = rich.table.Table(
            box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True,
            title=None if self.title is None else Text(self.title), title_justify="left",
        )  # fmt: skip
        for head, side in zip(self.heads, self._sides(), strict=True):
            table.add_column(
                Text(head), justify="right" if side == "right" else "left",
                no_wrap=not self.wrap, overflow="fold" if self.wrap else "ellipsis",
            )  # fmt: skip
        for i, row in enumerate(self.rows):
            if i and self._starts_section(i):
                table.add_section()
            style = self.styles.get(i, "bold" if self._is_title(row) else None)
            table.add_row(*map(Text, row), style=style)
        return table

    def markdown(self) -> str:
        """Return the table in Markdown, with the title above it in bold."""
        rules = ["---:" if side == "right" else "---" for side in self._sides()]
        lines = [self.heads, rules]
        for row in self.rows:
            is_title = self._is_title(row)
            lines.append([f"**{row[0]}**", *[""] * (len(self.heads) - 1)] if is_title else row)
        text = "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)
        return text if self.title is None else f"**{self.title}**\n\n{text}"

    def html(self) -> str:
        """Return the table as an HTML element; all text is escaped, and each section is a `tbody`."""
        sections: list[list[tuple[str, Sequence[str]]]] = []
        for i, row in enumerate(self.rows):
            if i == 0 or self._starts_section(i):
                sections.append([])
            sections[-1].append((self.styles.get(i, ""), row))
        heads = [head.replace("\n", " ") for head in self.heads]
        template = templates(Path(__file__).parent).get_template("table.html.jinja")
        return template.render(heads=heads, sides=self._sides(), title=self.title, sections=sections)

    def _sides(self) -> list[str]:
        letters = self.align or "l" + "r" * (len(self.heads) - 1)
        return ["right" if letter == "r" else "left" for letter in letters]

    def _is_title(self, row: Sequence[str]) -> bool:
        return len(row) == 1 < len(self.heads)

    def _starts_section(self, i: int) -> bool:
        return i in self.sections or self._is_title(self.rows[i])


def _markdown_cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
