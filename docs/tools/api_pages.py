# SPDX-License-Identifier: Apache-2.0
"""Pages of signatures, made of docs/reference.md when the site is built.

Each section of the reference lists public names in a table. Here it becomes a page of its own, on which
mkdocstrings writes the signature and the docstring of each name, and each name in the table becomes a link
there. A name without a signature is thus a link without a target, an error of `make docs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

REFERENCE = "reference.md"
HEADING = re.compile(r"^(##+) (.+)$")
ROW = re.compile(r"^\| (`.+?`) \|")
NAME = re.compile(r"`(\w+)`")
CORE = "tokenprune"


@dataclass(frozen=True)
class Group:
    """One table of the reference: the public names of a section."""

    title: str
    module: str
    names: tuple[str, ...]

    @property
    def path(self) -> str:
        """The page's path below docs."""
        return f"api/{re.sub(r'[^a-z0-9]+', '-', self.title.lower())}.md"

    def page(self) -> str:
        """Markdown of the page."""
        entries = [f"# {self.title}"]
        if self.title == self.module:
            entries.append(_directive(self.module, "show_root_heading: false", "members: false"))
        level = "heading_level: 2"
        entries += [_directive(f"{self.module}.{name}", level) for name in self.names]
        return "\n\n".join(entries) + "\n"


def _directive(name: str, *options: str) -> str:
    return "\n".join([f"::: {name}", "    options:", *(f"      {option}" for option in options)])


def groups(reference: str) -> list[Group]:
    """Return the tables of names; a table of modules is not one."""
    found: dict[str, Group] = {}
    for title, module, _, names in _rows(reference):
        before = found[title].names if title in found else ()
        found[title] = Group(title, module, before + names)
    return list(found.values())


def linked(reference: str) -> str:
    """Return the reference with each name of a table linked to its signature."""
    lines = reference.splitlines()
    for _, module, number, _ in _rows(reference):
        cell = ROW.match(lines[number])[0]  # type: ignore[index]
        lines[number] = NAME.sub(rf"[`\1`][{module}.\1]", cell) + lines[number][len(cell) :]
    return "\n".join(lines) + "\n"


def _rows(reference: str) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Yield the title, the module, the line and the names of each row that lists names."""
    title, module = "", CORE
    for number, line in enumerate(reference.splitlines()):
        heading, row = HEADING.match(line), ROW.match(line)
        if heading:
            title = heading[2].strip("`")
            module = title if re.fullmatch(r"tokenprune[\w.]*", title) else CORE
        elif row and title and not re.search(r"`tokenprune[\w.]*`", row[1]):
            yield title, module, number, tuple(NAME.findall(row[1]))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages (called by mkdocs)."""
    from mkdocs.structure.files import File

    for group in groups(files.get_file_from_path(REFERENCE).content_string):
        files.append(File.generated(config, group.path, content=group.page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Link the names of the reference (called by mkdocs)."""
    return linked(markdown) if page.file.src_uri == REFERENCE else markdown
