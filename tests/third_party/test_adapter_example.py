# SPDX-License-Identifier: Apache-2.0
"""The package of docs/writing-an-adapter.md, once installed, prunes a model that no other adapter takes."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from packaging.version import Version
from plugin_environments import make_environment, pip_install, run
from tutorials import follow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/writing-an-adapter.md"
EXAMPLE = "docs/examples/periscope"

pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"),
    reason="the package of the example depends on transformers>=5.24",
)

WITHOUT_THE_ADAPTER = """
import tokenprune
from tokenprune_periscope.model import tiny_periscope
try:
    tokenprune.apply(tiny_periscope(), keep=5)
except tokenprune.UnsupportedModelError as error:
    print(error)
"""
LISTING = """
import sys
import tokenprune
assert "periscope" in tokenprune.default_registry().names("adapter")
print("transformers" in sys.modules)
"""


def copied(folder):
    shutil.copytree(ROOT / EXAMPLE, folder / EXAMPLE, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The python of an environment with the package, built as a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    copied(folder)
    python = make_environment(folder / "environment")
    pip_install(python, folder / EXAMPLE)
    return python


def test_the_page_works_as_it_is_written(tmp_path):
    """Its commands in order, in a checkout."""
    copied(tmp_path)
    folder, said = follow(PAGE, make_environment(tmp_path / "environment"), tmp_path)
    assert folder == tmp_path / EXAMPLE
    assert "adapter periscope" in said["tokenprune plugins"]
    assert "on periscope" in said["tokenprune check --family periscope"]
    assert "7 passed" in said["python -m pytest"]


def test_its_promises_are_checked_by_name(installed, tmp_path):
    command = ["-m", "tokenprune_cli", "check", "--family", "periscope", "--method", "visionzip", "--json"]
    record = json.loads(run([installed, *command], tmp_path))
    (model,) = record["models"]
    assert (model["model"], model["adapter"]) == ("PeriscopeForConditionalGeneration", "periscope")
    assert [one["outcome"] for one in model["records"]] == ["passed"] * 5


def test_without_the_adapter_no_other_takes_the_model(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_DISABLE_PLUGINS", "periscope")
    said = run([installed, "-c", WITHOUT_THE_ADAPTER], tmp_path)
    assert "no adapter knows tokenprune_periscope.model.PeriscopeForConditionalGeneration" in said


def test_listing_it_imports_no_model_library(installed, tmp_path):
    assert run([installed, "-c", LISTING], tmp_path).strip() == "False"
