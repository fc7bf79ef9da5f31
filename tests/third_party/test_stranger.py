# SPDX-License-Identifier: Apache-2.0
"""A stranger's package, built and installed with pip into an environment of its own, works by name.

The package is the one the documentation shows.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from plugin_environments import make_environment, pip_install

EXAMPLE = Path(__file__).parents[2] / "docs/examples/outlier"

# evaluates expressions; prints what each gives, or the class and the message of its error
PROBE = """
import json, sys
import torch, tokenprune
from tokenprune.testing import check_scorer, example_tokens

def attempt(expression):
    try:
        return eval(expression)
    except tokenprune.TokenPruneError as error:
        return [type(error).__name__, str(error)]

print(json.dumps([attempt(expression) for expression in sys.argv[1:]]))
"""


def probe(python, *expressions, **environment):
    """Evaluate expressions in an environment."""
    done = subprocess.run(
        [python, "-c", PROBE, *expressions], capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def variant(folder, name, *edits):
    """Copy the example as another distribution, with edits to its module."""
    package = folder / f"tokenprune-{name}"
    package.mkdir()
    project = (EXAMPLE / "pyproject.toml").read_text()
    project = project.replace('"tokenprune-outlier"', f'"tokenprune-{name}"')
    project = project.replace('outlier = "tokenprune_outlier"', f'{name} = "tokenprune_{name}"')
    (package / "pyproject.toml").write_text(project)
    module = (EXAMPLE / "tokenprune_outlier.py").read_text()
    for old, new in edits:
        assert old in module
        module = module.replace(old, new)
    (package / f"tokenprune_{name}.py").write_text(module)
    return package


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An environment in which the example of the documentation is installed."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(EXAMPLE, folder / "package", ignore=shutil.ignore_patterns("__pycache__"))
    python = make_environment(folder / "environment")
    pip_install(python, folder / "package")
    return python


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """An environment with the good example and four packages that are each wrong in another way."""
    folder = tmp_path_factory.mktemp("crowd")
    python = make_environment(folder / "environment")
    pip_install(
        python,
        variant(folder, "good"),
        variant(folder, "clashing", ('"outlier"', '"zoo"')),
        variant(folder, "misspelt", ("def tokenprune_scorers", "def tokenprune_scorer")),
        variant(folder, "unimportable", ("import tokenprune\n", "import tokenprune\nimport no_such_thing\n")),
        variant(folder, "baseless", ("OutlierScorer(tokenprune.Scorer)", "OutlierScorer")),
    )
    return python


def test_its_scorer_is_listed_and_works_by_name(stranger):
    two = "tokenprune.VisualTokens(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))"
    whole = "tokenprune.Method('mine', scorer='outlier', selector='topk').select(example_tokens(), 3)"
    listed, origin, contract, scores, picks = probe(
        stranger,
        "tokenprune.list_scorers()",
        "tokenprune.default_registry().origin('scorer', 'outlier').origin",
        "check_scorer(tokenprune.scorer('outlier'))",
        f"tokenprune.scorer('outlier').score({two}).tolist()",
        f"{whole}.order.tolist()",
    )
    assert {"outlier", "zoo", "zoo-exact"} <= set(listed)
    assert origin == "plugin 'outlier' (tokenprune_outlier) of distribution tokenprune-outlier 0.1.0"
    assert contract is None
    assert scores == pytest.approx([1 - 0.5**0.5] * 2)
    assert len(picks) == 3


def test_it_is_switched_off_by_the_environment_variable(stranger):
    ask = ("tokenprune.scorer('outlier')", "tokenprune.list_scorers()")
    error, others = probe(stranger, *ask, TOKENPRUNE_DISABLE_PLUGINS="outlier")
    assert error[0] == "UnknownNameError"
    assert "Disabled by TOKENPRUNE_DISABLE_PLUGINS: outlier" in error[1]
    assert {"zoo", "zoo-exact", "uniform", "random"} <= set(others)


def test_its_own_tests_pass_where_it_is_installed(stranger, tmp_path):
    shutil.copy(EXAMPLE / "test_outlier.py", tmp_path)
    command = [stranger, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


QUESTIONS = {
    "scorers": "tokenprune.list_scorers()",
    "methods": "tokenprune.list_methods()",
    "problems": "{p.name: p.problem for p in tokenprune.default_registry().plugins if p.problem}",
    "conflicts": "tokenprune.default_registry().conflicts()",
    "contract": "check_scorer(tokenprune.scorer('outlier'))",
    "chosen": "tokenprune.method('zoo-exact').select(example_tokens(), 5).indices.tolist()",
    "clash": "tokenprune.scorer('zoo')",
    "clash in a method": "tokenprune.method('zoo-prune').select(example_tokens(), 5)",
    "misspelt": "tokenprune.scorer('misspelt')",
    "unimportable": "tokenprune.scorer('unimportable')",
    "baseless": "tokenprune.scorer('baseless')",
}


@pytest.fixture(scope="module")
def said(crowd):
    """What the crowded environment says to each question."""
    return dict(zip(QUESTIONS, probe(crowd, *QUESTIONS.values()), strict=True))


def test_four_wrong_packages_leave_everything_else_working(said):
    assert {"outlier", "zoo-exact", "uniform", "random"} <= set(said["scorers"])
    assert {"zoo-prune", "zoo-exact", "divprune"} <= set(said["methods"])
    assert said["contract"] is None
    assert len(said["chosen"]) == 5
    assert set(said["problems"]) == {"misspelt", "unimportable", "baseless"}


def test_a_clash_with_a_builtin_name_is_an_error_that_names_both(said):
    assert said["clash"][0] == said["clash in a method"][0] == "PluginConflictError"
    for part in ("'zoo' is offered twice", "tokenprune-vlm", "tokenprune-clashing 0.1.0", "DISABLE_PLUGINS="):
        assert part in said["clash"][1]
    assert said["conflicts"] == [said["clash"][1]]


def test_switching_the_clashing_package_off_gives_the_name_back(crowd):
    ask = "type(tokenprune.scorer('zoo')).__module__"
    assert probe(crowd, ask, TOKENPRUNE_DISABLE_PLUGINS="tokenprune-clashing") == ["tokenprune_plugins.zoo"]


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("misspelt", "has a hook that does not fit", "The hooks are tokenprune_scorers, "),
        ("unimportable", "No module named 'no_such_thing'", "TOKENPRUNE_DISABLE_PLUGINS=unimportable"),
        ("baseless", "delivers <class 'tokenprune_baseless.OutlierScorer'>", "subclasses of tokenprune."),
    ],
)
def test_a_broken_package_is_named_when_its_name_is_asked_for(said, name, what, remedy):
    kind, sentence = said[name]
    assert kind == "PluginError"
    assert f"plugin '{name}' (tokenprune_{name}) of distribution tokenprune-{name} 0.1.0" in sentence
    assert what in sentence
    assert remedy in sentence
