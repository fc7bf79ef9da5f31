# SPDX-License-Identifier: Apache-2.0
"""Commands and Python that pages show.

Commands stand in blocks of a shell, after a prompt in other blocks, and in inline code.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
INDENTED = re.compile(r"^ {4}(make .*)$", re.M)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PYTHON = re.compile(r"(?P<above>^[^\n]*\n)^```python\n(?P<code>.*?)^```$", re.M | re.S)
SHELLS = ("bash", "console", "sh")
ASSIGNMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Shown:
    """A command of a page: its words, and whether it is complete, to be typed as it stands."""

    page: Path
    words: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        return f"{self.page.name}: {shlex.join(self.words)}"


def blocks(page, *languages):
    """Texts of a page's blocks in these languages, or of all others with `languages` empty, in order."""
    for indent, language, text in FENCED.findall(page.read_text()):
        if language in languages:
            yield re.sub(rf"^{indent}", "", text, flags=re.M)


def python_of(page):
    """The Python blocks of a page, in order, without those of which it says that they are not executed."""
    found = PYTHON.finditer(page.read_text())
    return [block["code"] for block in found if not block["above"].startswith("<!-- not executed")]


def lines(block):
    """The commands of a block, one a line; a backslash joins the next line."""
    return [line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(page):
    """All commands that a page shows."""
    for block in blocks(page, *SHELLS):
        for line in lines(block):
            yield from _of_line(page, line.removeprefix("$ "), complete=True)
    for block in blocks(page, "text", ""):
        for line in lines(block):
            if line.startswith("$ "):
                yield from _of_line(page, line.removeprefix("$ "), complete=True)
    for line in INDENTED.findall(page.read_text()):
        yield from _of_line(page, line, complete=True)
    prose = FENCED.sub("", page.read_text())
    for text in INLINE.findall(prose):
        if re.match(r"(\.venv/bin/)?(tokenprune [a-z-]|python -m |make )", text):
            yield from _of_line(page, " ".join(text.split()), complete=False)


def _of_line(page, line, complete):
    words = shlex.split(line, comments=True)
    while words and ASSIGNMENT.match(words[0]):
        del words[0]
    if words:
        yield Shown(page, (words[0].removeprefix(".venv/bin/"), *words[1:]), complete and "..." not in words)
