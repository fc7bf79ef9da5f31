# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/methods/index.md from what is installed: `python docs/method_table.py`.

A line of code is a line that is neither blank nor a comment nor part of a docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from statistics import median

import tokenprune
from tokenprune.schedule import BUDGET_UNITS

PAGE = Path(__file__).parent / "methods" / "index.md"
MARKS = "<!-- {}: written by docs/method_table.py -->", "<!-- end of {} -->"


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
    rows = ["| method | paper | stage | before layers | positions | scope | newlines | budget | signals |"]
    rows.append("|---" * 9 + "|")
    for name in built_in():
        method = tokenprune.method(name)
        layers = "" if method.schedule is None else ", ".join(map(str, method.schedule.layers))
        if method.schedule is not None and method.schedule.depth is not None:
            layers += f" of {method.schedule.depth}"
        signals = ", ".join(f"`{signal}`" for signal in sorted(method.needs))
        cells = (_link(name), method.paper, method.stage, layers, method.positions or "the model's")
        counts = dict.fromkeys([method.budget, *BUDGET_UNITS]) if method.stage == "decoder" else [method.budget]
        cells = (*cells, method.scope, method.newlines, ", ".join(counts), signals or "none")
        rows.append(_row(*cells))
    return "\n".join(rows)


def code_table() -> str:
    """How much code each method is."""
    rows = ["| method | parts | its own file | all it is made of |", "|---|---|---:|---:|"]
    for name in built_in():
        files, parts = files_of(name), [part.name for part in tokenprune.method(name).parts]
        counts = [lines_of_code(path) for path in files]
        rows.append(_row(_link(name), ", ".join(f"`{p}`" for p in parts), str(counts[0]), str(sum(counts))))
    own = [lines_of_code(files_of(name)[0]) for name in built_in()]
    whole = [sum(map(lines_of_code, files_of(name))) for name in built_in()]
    rows.append(_row("**median**", "", f"{median(own):.0f}", f"{median(whole):.0f}"))
    return "\n".join(rows)


TABLES = {"choices": choices_table, "lines of code": code_table}


def written(page: str) -> str:
    """Return the page's text with its tables as they should be."""
    for name, make in TABLES.items():
        start, end = (mark.format(name) for mark in MARKS)
        inner = re.compile(f"(?<={re.escape(start)}).*?(?={re.escape(end)})", re.S)
        if not inner.search(page):
            raise ValueError(f"{PAGE.name} has no place for the table {name!r}: {start} ... {end}")
        before, after = inner.split(page, maxsplit=1)
        page = f"{before}\n\n{make()}\n\n{after}"
    return page


def _link(name: str) -> str:
    """Link to the method's page, found by its first line."""
    for path in sorted(PAGE.parent.glob("*.md")):
        heading = path.read_text().splitlines()[0]
        if name in heading.removeprefix("# ").split(", "):
            return f"[{name}]({path.name})"
    raise ValueError(f"the method {name!r} has no page in docs/methods")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
