# SPDX-License-Identifier: Apache-2.0
"""Every measured figure of README and the documentation has a command that measures it, or its source.

A section with a figure names a command, links to a section or a record that does, or cites a publication.
That the commands exist is in tests/meta/test_shown_commands.py.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = r"\d+(?:[.,]\d+)*"
UNIT = (
    r"(?:%(?! (?:confidence|interval))|x\b(?! \d)|times\b|(?<= )s\b|ms\b|seconds?\b|minutes?\b"
    r"|[MGK]i?B\b|points?\b|[GT]?FLOPs?\b)"
)
COUNTED = "(?:answers|cases|checks|methods|models|pictures|questions|requests|tests)"
FIGURE = re.compile(
    rf"(?<![\w.,]){NUMBER}(?: (?:to|and|or) {NUMBER})? ?{UNIT}|\b\d+ of (?:the )?\d+ (?:\w+ )?{COUNTED}\b"
)
HEAD_OF_FIGURES = re.compile(r"(?m)^\|.*(?:%|\bms\b|, s\b|\bMB\b|FLOP|faster|tokens/s).*\n\| ?:?-")
COMMAND = re.compile(
    r"`(?:[A-Z_0-9]+=\S+ )*(?P<inline>(?:tokenprune|python -m|pytest|make|\.ci/run) ?[^`]*)`"
    r"|^(?:\$ )?(?P<typed>(?:tokenprune|python -m|pytest|make) \S.*)$",
    re.M,
)
SOURCE = re.compile(r"\b\d{4}\.\d{5}\b|https?://")
LINK = re.compile(r"\]\((?P<page>[^)#:]*)(?:#(?P<anchor>[^)]*))?\)")
MEASURING = ("bench", "calibrate", "check", "compare", "demo")  # commands of tokenprune
NO_CLAIMS = ("Defaults",)  # values of options, not figures


@dataclass(frozen=True)
class Section:
    """The text below a heading, and that of the section around it."""

    page: Path
    heading: str
    text: str
    around: str = ""

    @property
    def anchor(self):
        return re.sub(r"[^\w\- ]", "", self.heading.lower()).strip().replace(" ", "-")

    @cached_property
    def figures(self):
        """What looks measured: numbers with a unit, and tables with one in their heads, outside of code."""
        if self.heading in NO_CLAIMS:
            return []
        prose = re.sub(r"(?ms)^```.*?^```|`[^`]*`|<!--.*?-->", "", self.text)
        return [m[0].strip() for pattern in (FIGURE, HEAD_OF_FIGURES) for m in pattern.finditer(prose)]

    @cached_property
    def commands(self):
        words = (m["inline"] or m["typed"] for m in COMMAND.finditer(self.around + self.text))
        return [command for command in words if measures(command)]

    @property
    def is_cited(self):
        """Whether the section names a publication; `Published numbers` are those of the page's paper."""
        return bool(SOURCE.search(self.page.read_text() if "ublished" in self.heading else self.text))

    @property
    def is_shown(self):
        return bool(self.commands) or self.is_cited or any(self.linked())

    def linked(self):
        """Whether each of the sections and records that are linked has a command, or its source."""
        for link in LINK.finditer(self.text):
            target = (self.page.parent / link["page"]).resolve() if link["page"] else self.page
            if target.suffix == ".md" and target.is_file():
                for section in sections(target):
                    if link["anchor"] in (None, section.anchor):
                        yield bool(section.commands) or section.is_cited
            elif target.suffix == ".json" and target.is_file():
                yield "command" in json.loads(target.read_text())


def measures(command):
    """Whether a command can show a figure: it runs tests, a benchmark or a command that measures."""
    program, *words = command.split()
    return program != "tokenprune" or (bool(words) and words[0] in MEASURING)


def sections(page):
    """The sections of a page; those at the third level have the text of theirs at the second around them."""
    parts, in_code, around = [""], False, ""
    for line in page.read_text().splitlines(keepends=True):
        in_code ^= line.startswith("```")
        if re.match("#{1,6} ", line) and not in_code:
            parts.append("")
        parts[-1] += line
    for part in parts:
        heading = part.split("\n", 1)[0]
        if heading.startswith("## "):
            around = part
        yield Section(page, heading.lstrip("# "), part, around if heading.startswith("###") else "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_figure_is_without_its_command(page):
    bare = {s.heading: s.figures for s in sections(page) if s.figures and not s.is_shown}
    assert not bare, f"name the command that measures these, or their source: {bare}"


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("It is 3.9 to 4.5 times as fast.", ["3.9 to 4.5 times"]),
        ("It takes 128 of 576 visual tokens, on 2 cores, since 0.2.0, with a 95 % interval.", []),
        ("`keep=0.2 %` and 75 %; 12 of 16 questions", ["75 %", "12 of 16 questions"]),
        ("| model | first token, s |\n| --- | ---: |\n| a | 3 |", ["| model | first token, s |\n| -"]),
        ("```bash\nsleep 3 s\n```\n", []),
    ],
)
def test_what_counts_as_a_figure(text, figures):
    assert Section(PAGES[0], "", text).figures == figures


@pytest.mark.parametrize(
    ("evidence", "is_shown"),
    [
        ("", False),
        ("; see `tokenprune list`", False),
        ("; see [models](docs/models.md#what-counts-as-an-image)", False),
        (" (`tokenprune bench`)", True),
        (" ([speed](docs/speed.md#cpu-small))", True),
        (" ([record](docs/benchmarks/demo.json))", True),
        (" (arXiv 2412.04467)", True),
    ],
)
def test_what_shows_a_figure(evidence, is_shown):
    assert Section(PAGES[0], "Speed", f"## Speed\n\nIt is 4 times faster{evidence}.\n").is_shown == is_shown
