# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/methods/index.md: tables of the installed methods.

A line of code is a line that is neither blank nor a comment nor part of a docstring.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from statistics import median

from tokenprune_evaluation.tables import Table

import tokenprune
from tokenprune.schedule import BUDGET_UNITS

from .sources import DOCS, Blocks

PAGES = DOCS / "methods"


def built_in() -> list[str]:
    """Names of the methods that come with this package."""
    registry = tokenprune.default_registry()
    names = registry.names("method")
    return [n for n in names if registry.origin("method", n).distribution == "tokenprune-vlm"]


def files_of(name: str) -> list[Path]:
    """Plugin files a method is made of, the one that names it first: its parts' and what those import."""
    registry, method = tokenprune.default_registry(), tokenprune.method(name)
    modules = [registry.origin("method", name).module, *(type(part).__module__ for part in method.parts)]
    if method.schedule is not None:
        modules.append(type(method.schedule).__module__)
    plugins = modules[0].rpartition(".")[0]
    files: list[Path] = []
    waiting = [m for m in modules if m.startswith(f"{plugins}.")]
    while waiting:
        path = Path(inspect.getfile(sys.modules[waiting.pop(0)]))
        if path in files:
            continue
        files.append(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting.append(f"{plugins}.{node.module}")
    return files


def lines_of_code(path: Path) -> int:
    """Lines that hold code, docstrings left out."""
    text = path.read_text()
    lines = {
        number
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def median_length() -> float:
    """Median length of the plugin files, everything counted."""
    files = {path for name in built_in() for path in files_of(name)[0].parent.glob("*.py")}
    return median(len(p.read_text().splitlines()) for p in files if p.stem != "__init__")


def choices_table() -> str:
    """What each method does where, by its paper's choice."""
    heads = (
        "method",
        "paper",
        "stage",
        "before layers",
        "positions",
        "scope",
        "newlines",
        "budget",
        "signals",
    )
    rows = []
    for name in built_in():
        method = tokenprune.method(name)
        layers = "" if method.schedule is None else ", ".join(map(str, method.schedule.layers))
        if method.schedule is not None and method.schedule.depth is not None:
            layers += f" of {method.schedule.depth}"
        signals = ", ".join(f"`{signal}`" for signal in sorted(method.needs))
        budgets = (
            dict.fromkeys([method.budget, *BUDGET_UNITS]) if method.stage == "decoder" else [method.budget]
        )
        rows.append(
            [
                *(link(name), method.paper, method.stage, layers, method.positions or "the model's"),
                *(method.scope, method.newlines, ", ".join(budgets), signals or "none"),
            ]
        )
    return Table(heads, rows, align="l" * len(heads)).markdown()


def code_table() -> str:
    """How much code each method is."""
    rows = []
    for name in built_in():
        files, parts = files_of(name), [part.name for part in tokenprune.method(name).parts]
        counts = [lines_of_code(path) for path in files]
        rows.append([link(name), ", ".join(f"`{p}`" for p in parts), str(counts[0]), str(sum(counts))])
    own = [lines_of_code(files_of(name)[0]) for name in built_in()]
    whole = [sum(map(lines_of_code, files_of(name))) for name in built_in()]
    rows.append(["**median**", "", f"{median(own):.0f}", f"{median(whole):.0f}"])
    return Table(("method", "parts", "its own file", "all it is made of"), rows, align="llrr").markdown()


def page_of(name: str) -> Path | None:
    """Page whose heading names the method, or None."""
    for path in sorted(PAGES.glob("*.md")):
        heading = path.read_text(encoding="utf-8").splitlines()[0]
        if name in heading.removeprefix("# ").split(", "):
            return path
    return None


def link(name: str) -> str:
    """Link a method to its page, from another page of the methods."""
    page = page_of(name)
    if page is None:
        raise ValueError(f"the method {name!r} has no page in docs/methods")
    return f"[{name}]({page.name})"


BLOCKS: Blocks = {"choices": choices_table, "lines-of-code": code_table}
