# SPDX-License-Identifier: Apache-2.0
"""What `tokenprune new-plugin` writes installs, is listed and passes its own tests; the tutorial works."""

import json
import subprocess
from pathlib import Path

import pytest
from plugin_environments import make_environment, pip_install, run
from shown_commands import blocks
from tutorials import follow

PAGE = Path(__file__).parents[2] / "docs/writing-a-plugin.md"
KINDS = ("scorer", "selector", "method", "adapter")


def tokenprune(python, *arguments):
    return [python, "-m", "tokenprune_cli", *arguments]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The python of an environment with a new plugin of each kind, and the folder that holds them."""
    folder = tmp_path_factory.mktemp("written")
    python = make_environment(folder / "environment")
    for kind in KINDS:
        run(tokenprune(python, "new-plugin", f"my-{kind}", "--kind", kind), folder)
        pip_install(python, "-e", ".", folder=folder / f"my-{kind}")
    return python, folder


def test_each_kind_is_listed(written):
    python, folder = written
    plugins = json.loads(run(tokenprune(python, "plugins", "--json"), folder))["plugins"]
    mine = [entry for entry in plugins if entry["name"].startswith("my-")]
    for entry, kind in zip(mine, sorted(KINDS), strict=True):
        assert entry["delivers"] == [f"{kind} my-{kind}"] and entry["state"] == "loaded"
        assert (entry["distribution"], entry["version"]) == (f"tokenprune-my-{kind}", "0.1.0")


@pytest.mark.parametrize(("kind", "count"), [("scorer", 2), ("selector", 3), ("method", 2), ("adapter", 3)])
def test_each_kind_passes_its_own_tests(written, kind, count):
    python, folder = written
    said = run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"], folder / f"my-{kind}")
    assert f"{count} passed" in said


def test_a_name_is_taken_once_it_is_installed(written, tmp_path):
    python, _ = written
    command = tokenprune(python, "new-plugin", "my-scorer", "--kind", "method")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "there is a scorer of this name" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_tutorial_works_as_it_is_written(tmp_path):
    """Its commands in order, then its Python, in an environment in which its package is installed."""
    python = make_environment(tmp_path / "environment")
    folder, said = follow(PAGE, python, tmp_path)
    assert folder == tmp_path / "outlier"
    assert "scorer outlier" in said["tokenprune plugins"]
    assert "2 passed" in said["python -m pytest"]
    assert (folder / "pyproject.toml").read_text() in blocks(PAGE, "toml")
    code = list(blocks(PAGE, "python"))
    assert (folder / "tokenprune_outlier.py").read_text().endswith(code[0])
    (tmp_path / "page.py").write_text("\n".join(code))
    run([python, "page.py"], tmp_path)
