# SPDX-License-Identifier: Apache-2.0
"""Tables that notebooks show for reports and handles."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

TABLE = Template("<table><caption>$caption</caption><thead>$head</thead><tbody>$body</tbody></table>")
N_ROWS = 20  # of a table, at most


def html_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an HTML table of at most `N_ROWS` rows, and how many more there are; all text is escaped."""
    body = "".join(_row("td", row) for row in rows[:N_ROWS])
    if len(rows) > N_ROWS:
        body += _row("td", [f"and {len(rows) - N_ROWS} more", *[""] * (len(heads) - 1)])
    return TABLE.substitute(caption=escape(caption), head=_row("th", heads), body=body)


def _row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
