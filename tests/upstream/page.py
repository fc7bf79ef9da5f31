# SPDX-License-Identifier: Apache-2.0
"""Write the list of docs/upstream.md from expected.json: `python tests/upstream/page.py`."""

from pathlib import Path

from judge import Entry, read_list

PAGE = Path(__file__).parents[2] / "docs/upstream.md"
START, END = "<!-- list: written by tests/upstream/page.py -->\n\n", "\n<!-- end of list -->"


def table(entries: list[Entry]) -> str:
    """One line for each entry."""
    lines = ["| test | modes | why it fails |", "|---|---|---|"]
    lines += [f"| `{entry.test}` | `{entry.mode}` | {entry.reason} |" for entry in entries]
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the list as it is now."""
    head, rest = page.split(START)
    return head + START + table(read_list()) + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
