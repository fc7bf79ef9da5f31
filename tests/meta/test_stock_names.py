# SPDX-License-Identifier: Apache-2.0
"""Only stock.py knows transformers' names: no other file of the adapters has one, in whatever form."""

import ast
from pathlib import Path

import pytest
from tokenprune_adapters.transformers import stock

ADAPTERS = Path(__file__).parents[2] / "adapters/tokenprune_adapters"
# adapters of other libraries' models, whose names are their own; and what loads a model by its name, with the
# classes that every user of transformers calls
OTHERS = {"timm_vit.py", "open_clip_towers.py", "loading.py"}
FILES = [
    path
    for path in sorted(ADAPTERS.rglob("*.py"))
    if path.name not in OTHERS and "vit" not in path.parts and path.name != "stock.py"
]
# words of Python, of torch or of our own vocabulary, which say nothing about transformers where they stand
COMMON = {
    "config",
    "image_grids",
    "key",
    "keys",
    "layers",
    "module",
    "query",
    "reset",
    "scaling",
    "update",
    "value",
    "values",
    "x",
}
# names of signals (DESIGN's vocabulary) that happen to be spelt alike
SIGNALS = {("vlm.py", "position_ids"), ("decoder_signals.py", "position_ids")}


def names():
    """All names of stock.py's tables but common words."""
    tables = [*stock.ARGUMENTS.values(), *stock.OUTPUTS.values()]
    listed = {name for spellings in tables for name in spellings}
    listed |= {*stock.LAYER_METHODS.values(), *stock.MASKS, *stock.MASKS.values(), *stock.ATTRIBUTES.values()}
    assert COMMON <= listed
    return listed - COMMON


def words(tree):
    """Identifiers, attributes, keywords, arguments and strings of a file, docstrings left out."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and ast.unparse(node) != "functools.cache":
            yield node.attr, node.lineno
        elif isinstance(node, (ast.keyword, ast.arg)) and node.arg:
            yield node.arg, node.lineno if isinstance(node, ast.arg) else node.value.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[-1], node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ADAPTERS)))
def test_no_other_file_names_a_piece_of_transformers(path):
    known = names()
    uses = [
        f"{path.name}:{line} {word}"
        for word, line in words(ast.parse(path.read_text()))
        if word in known and (path.name, word) not in SIGNALS
    ]
    assert not uses


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ADAPTERS)))
def test_no_other_file_imports_transformers(path):
    tree = ast.parse(path.read_text())
    imported = {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    } | {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert "transformers" not in imported
