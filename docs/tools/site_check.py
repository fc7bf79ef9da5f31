# SPDX-License-Identifier: Apache-2.0
"""Check every page of the site as it is built: for readers who listen, and for readers without network.

A page has one heading of level 1, no heading skips a level, every image says in words what it shows, and
nothing is loaded from another host. What is not so is a warning of mkdocs, an error of `make docs`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
FOR_BROWSERS = {"canonical", "next", "prev", "alternate"}  # relations that load nothing
log = logging.getLogger("mkdocs.hooks.site_check")


def problems(html: str) -> list[str]:
    """Return what is wrong with a page, in the order of the page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    count = reader.levels.count(1)
    found = [] if count == 1 else [f"{count} headings of level 1, there must be one"]
    return found + _skipped(reader.levels, reader.headings) + reader.found


def _skipped(levels: Sequence[int], headings: Sequence[str]) -> list[str]:
    """Name each heading that is more than one level below the heading before it."""
    return [
        f"heading {text.strip()!r} of level {level} follows one of level {before}"
        for before, level, text in zip(levels, levels[1:], headings[1:], strict=False)
        if level > before + 1
    ]


class _Reader(HTMLParser):
    """Collects headings, and what is wrong with a single element."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.headings: list[str] = []
        self.found: list[str] = []
        self._heading: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read a tag."""
        given = dict(attrs)
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.levels.append(int(tag[1]))
            self.headings.append("")
            self._heading = tag
        if tag == "img" and not (given.get("alt") or "").strip():
            self.found.append(f"the image {given.get('src')!r} has no alternative text")
        address = given.get(LOADED.get(tag, "")) or ""
        if address.startswith(("http:", "https:", "//")) and given.get("rel") not in FOR_BROWSERS:
            self.found.append(f"<{tag}> loads {address!r} from another host")

    def handle_data(self, data: str) -> None:
        """Read text."""
        if self._heading is not None:
            self.headings[-1] += data.replace("¶", "")  # the mark that links the heading

    def handle_endtag(self, tag: str) -> None:
        """Read the end of an element."""
        if tag == self._heading:
            self._heading = None


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn of what is wrong with a page (called by mkdocs)."""
    for problem in problems(output):
        log.warning("%s: %s", page.file.src_uri, problem)
    return output
