# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, what an import may do, and what files look like."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import tokenprune

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "tokenprune").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins/tokenprune_plugins").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters/tokenprune_adapters").rglob("*.py"))
VLLM = sorted((ROOT / "adapters/tokenprune_vllm").rglob("*.py"))
EMBEDDED = sorted((ROOT / "plugins/tokenprune_embedded").rglob("*.py"))
CLI = sorted((ROOT / "plugins/tokenprune_cli").rglob("*.py"))
CALIBRATE = sorted((ROOT / "plugins/tokenprune_calibrate").rglob("*.py"))
EVALUATION = sorted((ROOT / "plugins/tokenprune_evaluation").rglob("*.py"))
LMMS_EVAL = sorted((ROOT / "adapters/tokenprune_lmms_eval").rglob("*.py"))
PYTEST = sorted((ROOT / "plugins/tokenprune_pytest").rglob("*.py"))
SERVING = sorted((ROOT / "plugins/tokenprune_serving").rglob("*.py"))
VISUALIZE = sorted((ROOT / "plugins/tokenprune_visualize").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
DOCS = sorted((ROOT / "docs").glob("*.py")) + sorted((ROOT / "docs/tools").rglob("*.py"))
PROGRAMS = CALIBRATE + CLI + EMBEDDED + EVALUATION + LMMS_EVAL + PYTEST + SERVING + VISUALIZE
OURS = CORE + PLUGINS + ADAPTERS + VLLM + PROGRAMS
HEAVY = {"transformers", "timm", "open_clip", "torchvision", "PIL", "rich", "typer"}


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(path, everywhere=True):
    """Absolute module names a file imports, at its top level or everywhere."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_no_plugin_no_adapter_and_no_model_library(path):
    roots = {module.split(".")[0] for module in imported(path)}
    assert not {root for root in roots if root.startswith("tokenprune_")}
    assert not roots & HEAVY


@pytest.mark.parametrize("path", PLUGINS + ADAPTERS + VLLM, ids=name_of)
def test_plugins_and_adapters_import_the_core_by_its_public_modules_and_not_each_other(path):
    own = path.relative_to(ROOT).parts[1]
    for module in imported(path):
        parts = module.split(".")
        assert not any(part.startswith("_") and part != "__future__" for part in parts), module
        if parts[0].startswith("tokenprune_"):
            assert parts[0] == own


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_the_programs_use_public_names_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tokenprune":
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenprune_plugins"):
            pytest.fail(f"{name_of(path)}:{node.lineno} imports a plugin; ask tokenprune for it by name")


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_tokenprune_loads_no_plugin_and_no_model_library():
    code = "import sys, tokenprune; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(code).split())
    assert not loaded & (HEAVY | {"tokenprune_plugins", "tokenprune_adapters", "tokenprune_cli"})


def test_importing_tokenprune_has_no_side_effects():
    code = """
import os, random, signal, sys, threading, warnings
import numpy, torch
def state():
    return (
        dict(os.environ), random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), list(warnings.filters),
        sys.path[:], os.getcwd(), sys.excepthook, threading.active_count(), signal.getsignal(signal.SIGINT),
        torch.nn.Module.__call__, torch.Tensor.__getitem__,
    )
before = state()
import tokenprune, tokenprune.testing, tokenprune.functional
print(state() == before)
"""
    assert run(code) == "True"


def words_of_code(path):
    """Identifiers and strings of a file's code; docstrings and comments left out."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        for field in ("id", "attr", "name", "arg"):
            if isinstance(getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), getattr(node, field)


# what `apply` and `Method` fall back on when nothing is said; DESIGN section 4 fixes these three
DEFAULTS = {("arguments.py", "zoo-exact"), ("arguments.py", "uniform"), ("arguments.py", "topk")} | {
    ("methods.py", "uniform"),
    ("methods.py", "topk"),
}
FAMILIES = ("llava", "qwen", "internvl", "gemma", "siglip", "vicuna", "idefics", "paligemma", "mllama")


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_names_no_strategy_and_no_model_family(path):
    kinds = ("scorer", "selector", "reducer", "method", "adapter")
    names = {name for kind in kinds for name in tokenprune.default_registry().names(kind)}
    names |= {name.replace("-", "_") for name in names} - {"random", "attention"} | {"zoo"}
    names -= {"random", "attention", "scope"}  # ordinary words; `random` is also a module of Python's
    for line, text in words_of_code(path):
        for word in re.findall(r"[A-Za-z][\w-]*", text):
            allowed = (path.name, word) in DEFAULTS
            assert allowed or word not in names, f"{name_of(path)}:{line} names the strategy {word!r}"
            assert not word.lower().startswith(FAMILIES), f"{name_of(path)}:{line} names a model: {word!r}"


def test_every_builtin_plugin_has_its_entry_point():
    ours = {p.value for p in entry_points(group="tokenprune") if p.dist and p.dist.name == "tokenprune-vlm"}
    hooked = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts[1:])
        for path in PLUGINS + ADAPTERS
        if re.search(r"^@tokenprune\.hookimpl", path.read_text(), re.M)
    }
    assert ours == hooked


@pytest.mark.parametrize("path", OURS + TESTS + BENCHMARKS + DOCS, ids=name_of)
def test_files_carry_the_licence_and_a_telling_name(path):
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert path.stem not in {"utils", "helpers", "common", "misc", "util", "helper"}


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_nothing_in_the_wheel_imports_the_benchmarks(path):
    assert not {module for module in imported(path) if module.split(".")[0] == "benchmarks"}


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_library_code_touches_no_global_state(path):
    text = path.read_text()
    assert not re.search(r"torch\.manual_seed|random\.seed\(|use_deterministic_algorithms\(", text)
    if "os.environ" in text:
        assert path.name == "plugins.py"
    assert "PYTEST" not in text


# sizes of STYLE section 0: one idea a file
@pytest.mark.parametrize(("paths", "limit"), [(CORE, 200), (PLUGINS, 200)], ids=["core", "plugins"])
def test_files_stay_small(paths, limit):
    too_long = {name_of(path): n for path in paths if (n := len(path.read_text().splitlines())) > limit}
    assert too_long == {}


def test_packages_say_that_they_are_typed():
    for package in {path.relative_to(ROOT).parts[:-1] for path in OURS if path.name == "__init__.py"}:
        if package[-1].startswith("tokenprune"):
            assert (ROOT.joinpath(*package) / "py.typed").exists(), package


def test_the_version_is_the_change_logs_newest():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
