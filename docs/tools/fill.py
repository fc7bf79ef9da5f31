# SPDX-License-Identifier: Apache-2.0
"""Fill the generated blocks of the documentation: `python docs/tools/fill.py [PAGE ...] [--check]`.

A block stands between two comments, on lines of its own or within a line:

    <!-- block NAME ARGUMENT ... -->

    replaced by what the block's function returns

    <!-- end -->

The functions are in `blocks`, one file for each page's; the templates some of them fill are in `templates`.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from blocks import (
    calibrate,
    checks,
    compare,
    demo,
    duplicates,
    evaluation,
    guide,
    methods,
    saved,
    serving,
    signals,
    speed,
    studies,
    vision_towers,
)
from blocks.sources import ROOT, Blocks

MODULES = (
    *(demo, saved, speed, compare, calibrate, studies, vision_towers),
    *(methods, guide, duplicates, evaluation, serving, signals, checks),
)
BLOCKS: Blocks = {name: function for module in MODULES for name, function in module.BLOCKS.items()}
PAGES = (
    "README.md",
    "docs/demo.md",
    "docs/speed.md",
    "docs/compare.md",
    "docs/calibrate.md",
    "docs/studies.md",
    "docs/vision-towers.md",
    "docs/methods/index.md",
    "docs/methods/duplicates.md",
    "docs/methods/tower-diverse.md",
    "docs/methods/zoo-max.md",
    "docs/evaluation.md",
    "docs/serving.md",
    "docs/faq.md",
    "docs/signals.md",
    "docs/reliability.md",
)
FILES = {"docs/data/commands.csv": evaluation.commands}  # generated as a whole
MARK = re.compile(r"<!-- (?:block (?P<call>.+?)|end) -->")


def filled(page: str, blocks: Blocks) -> str:
    """Return a page with the content of every block replaced.

    Parameters
    ----------
    page
        The text of the page.
    blocks
        The functions that write them, by name.

    Raises
    ------
    ValueError
        If marks do not come in pairs, or a block is unknown or given other arguments than it takes.
    """
    parts, position, start = [], 0, None
    for mark in MARK.finditer(page):
        if mark["call"] is not None:
            if start is not None:
                raise ValueError(f"the block {start['call']!r} has no end")
            parts.append(page[position : mark.end()])
            start = mark
        elif start is None:
            raise ValueError(
                f"line {page.count(chr(10), 0, mark.start()) + 1} ends a block that has no start"
            )
        else:
            is_inline = page[start.end() : mark.start()].count("\n") == 0
            content = _content(start["call"], blocks)
            if is_inline:
                _check_inline(page, start, content)
            parts.append(content if is_inline else f"\n\n{content}\n\n")
            position, start = mark.start(), None
    if start is not None:
        raise ValueError(f"the block {start['call']!r} has no end")
    return "".join([*parts, page[position:]])


def _content(call: str, blocks: Blocks) -> str:
    """Call the function of a block."""
    name, *arguments = shlex.split(call)
    if name not in blocks:
        close = difflib.get_close_matches(name, blocks)
        hint = f"did you mean {close[0]!r}?" if close else f"the blocks are {', '.join(blocks)}"
        raise ValueError(f"there is no block {name!r}; {hint}")
    try:
        inspect.signature(blocks[name]).bind(*arguments)
    except TypeError as error:
        raise ValueError(f"the block {call!r} does not fit its function: {error}") from None
    return blocks[name](*arguments).strip()


def _check_inline(page: str, start: re.Match[str], content: str) -> None:
    """Refuse a block within a line whose content, or whose place, Markdown would not read as part of it."""
    if "\n" in content:
        raise ValueError(f"the block {start['call']!r} takes several lines: put its end on a line of its own")
    if not page[page.rfind("\n", 0, start.start()) + 1 : start.start()].strip():
        raise ValueError(f"the block {start['call']!r} begins a line, where Markdown ends the paragraph")


def should_be(name: str) -> str:
    """Return what a page, or a generated file, should contain."""
    if name in FILES:
        return FILES[name]()
    try:
        return filled((ROOT / name).read_text(encoding="utf-8"), BLOCKS)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description="Fill the generated blocks of the documentation.")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"default: {', '.join((*PAGES, *FILES))}")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change no file; name the pages that are out of date, exit with 1",
    )
    parser.add_argument(
        "--demo",
        type=Path,
        metavar="DIR",
        help="first copy the record and the pictures that `tokenprune demo` wrote to DIR into docs/",
    )
    arguments = parser.parse_args(argv)
    names = [_name(page) for page in arguments.pages] or [*PAGES, *FILES]
    unknown = [name for name in names if name not in PAGES and name not in FILES]
    if unknown:
        parser.error(f"{unknown[0]} has no generated blocks; the pages are {', '.join((*PAGES, *FILES))}")
    if arguments.demo is not None:
        if arguments.check:
            parser.error("--demo changes files and --check does not: give one of them")
        demo.copy_demo(arguments.demo)
    contents = {name: should_be(name) for name in names}
    stale = [name for name in names if (ROOT / name).read_text(encoding="utf-8") != contents[name]]
    for name in stale:
        if not arguments.check:
            (ROOT / name).write_text(contents[name], encoding="utf-8")
        print(
            f"{name} is out of date: run python docs/tools/fill.py" if arguments.check else f"filled {name}"
        )
    return int(arguments.check and bool(stale))


def _name(page: str) -> str:
    """Return a page's path below the checkout's root; it may be given from there, or from anywhere."""
    path = Path(page).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else page


if __name__ == "__main__":
    sys.exit(main())
