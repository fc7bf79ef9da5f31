# SPDX-License-Identifier: Apache-2.0
"""What other packages may import is documented, and our own strategies and adapters import nothing else."""

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import GenericAlias

import pytest
from tokenprune_adapters import authoring

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference.md").read_text()
PAGES = REFERENCE + "".join((DOCS / f"writing-{what}.md").read_text() for what in ("a-plugin", "an-adapter"))
SECTION = REFERENCE.split("## What other packages may import")[1].split("\n## ")[0]
PUBLIC = set(re.findall(r"^\| `(tokenprune[\w.]*)` \|", SECTION, re.M))

STRATEGIES = sorted((ROOT / "plugins/tokenprune_plugins").glob("*.py"))
# beside what `authoring` itself is made of, which knows the inside of the core: what a stranger could write
ADAPTERS = [
    path
    for path in sorted((ROOT / "adapters/tokenprune_adapters").glob("*.py"))
    if path.name not in {"__init__.py", "authoring.py", "families.py"}
]
LMMS_EVAL = sorted((ROOT / "adapters/tokenprune_lmms_eval").glob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """(absolute module, name or None) of all imports of a file; relative ones begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((module, alias.name) for alias in node.names)


def of_the_core(path):
    return [(module, name) for module, name in imports(path) if module.split(".")[0] == "tokenprune"]


def test_the_reference_lists_the_public_modules():
    core = {"tokenprune", "tokenprune.functional", "tokenprune.testing", "tokenprune_visualize"}
    adapters = {"tokenprune_adapters.authoring", "tokenprune_adapters.clip_space"}
    assert core | adapters <= PUBLIC
    for module in PUBLIC:
        assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("path", STRATEGIES + ADAPTERS, ids=name_of)
def test_our_strategies_and_adapters_import_public_modules_of_the_core_only(path):
    for module, name in of_the_core(path):
        assert module in PUBLIC, f"{module} is not public"
        if name is None:
            continue
        public = importlib.import_module(module)
        assert not name.startswith("_")
        assert not inspect.ismodule(getattr(public, name, None)) or f"{module}.{name}" in PUBLIC
        assert name in names_of(module), f"{module}.{name} is not public"


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_our_adapters_import_the_authoring_module_and_each_other_only(path):
    siblings = {f".{other.stem}" for other in ADAPTERS}
    for module, name in imports(path):
        if module == ".authoring":
            assert name in authoring.__all__
        elif module.startswith("."):  # `tiny` holds the configurations of the built-in adapters' specimens
            assert module in siblings | {".tiny"}, module


@pytest.mark.parametrize("path", LMMS_EVAL, ids=name_of)
def test_lmms_eval_imports_no_command_line(path):
    assert not [module for module, _ in imports(path) if module.startswith("tokenprune_cli")]


def names_of(module):
    """The public names of a module: those of `__all__`, or those it defines or imports as themselves."""
    public = importlib.import_module(module)
    if hasattr(public, "__all__"):
        return list(public.__all__)
    tree = ast.parse(Path(public.__file__).read_text())
    defined = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    passed_on = [
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]
    return [name for name in defined + passed_on if not name.startswith("_")]


EXPORTED = [(module, name) for module in sorted(PUBLIC) for name in names_of(module)]


@pytest.mark.parametrize(("module", "name"), EXPORTED, ids=lambda part: part)
def test_every_exported_name_is_documented(module, name):
    public = importlib.import_module(module)
    value = getattr(public, name)
    if isinstance(value, (str, Mapping, GenericAlias)):  # without docstrings of their own
        assert f"`{name}`" in public.__doc__
    else:
        assert (value.__doc__ or "").strip()
        assert not value.__doc__.startswith(f"{name}(")  # what a dataclass without a docstring gets
    assert f"`{name}`" in PAGES, f"`{name}` is on none of the pages"


def test_the_authoring_module_describes_its_names_and_imports_nothing_else():
    tree = ast.parse(Path(authoring.__file__).read_text())
    imported = {a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported == set(authoring.__all__)
    assert all(f"`{name}`" in authoring.__doc__ for name in authoring.__all__)
