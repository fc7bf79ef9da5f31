# SPDX-License-Identifier: Apache-2.0
"""No module of ours imports itself through others: not for types, and not inside functions."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [(ROOT / "tokenprune", ROOT), (ROOT / "benchmarks", ROOT)]
SOURCES += [
    (package, package.parent) for parent in ("plugins", "adapters") for package in (ROOT / parent).iterdir()
]


def modules(sources):
    """Path of every module by its name; `sources` are packages, each with the directory it is in."""
    found = {}
    for package, base in sources:
        for path in package.rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path, known):
    """Modules of `known` that a module imports, wherever in its text."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                target = target if target in known else base
                if target in known and target != name:  # `from . import name` in __init__.py
                    yield target


def circle(sources):
    """Names along a circle of imports; empty where there is none."""
    known = modules(sources)
    graph = {name: set(imported(name, path, known)) for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_our_packages_have_no_import_circle():
    known = modules(SOURCES)
    roots = {name.split(".")[0] for name in known}
    assert {
        "tokenprune",
        "tokenprune_plugins",
        "tokenprune_adapters",
        "tokenprune_vllm",
        "benchmarks",
    } <= roots
    assert {"tokenprune_lmms_eval", "tokenprune_pytest", "tokenprune_cli"} <= roots
    assert "tokenprune.visualize" in known
    assert circle(SOURCES) == []


@pytest.mark.parametrize(
    "back",
    [
        "from .first import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.first import thing",
        "def function():\n    import package.first",
        "from . import first",
    ],
)
def test_a_circle_is_noticed(tmp_path, back):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from .first import thing\n")
    (package / "first.py").write_text("from . import second\n")
    (package / "second.py").write_text("import torch\n")
    assert circle([(package, tmp_path)]) == []
    (package / "second.py").write_text(back)
    assert set(circle([(package, tmp_path)])) >= {"package.first", "package.second"}
