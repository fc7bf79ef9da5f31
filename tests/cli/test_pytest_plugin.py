# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: one fixture, nothing heavy until it is used."""

import subprocess
import sys
import textwrap

import pytest
import tokenprune_pytest
from tokenprune_adapters.tiny import tiny_model

import tokenprune

HEAVY = "('torch', 'transformers', 'numpy', 'tokenprune', 'rich', 'typer')"


@pytest.fixture
def run(tmp_path):
    """Run a test file in a pytest of its own, as a plugin author would."""

    def run(source):
        (tmp_path / "test_mine.py").write_text(textwrap.dedent(source))
        command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, "-p", "tokenprune_pytest", "test_mine.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def test_loading_the_module_imports_nothing_heavy():
    code = f"import sys, tokenprune_pytest; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_does_not_use_it_imports_nothing_heavy(run):
    done = run(
        f"""
        import sys
        def test_nothing():
            assert not [name for name in {HEAVY} if name in sys.modules]
        """
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_authors_scorer_in_one_line(run):
    done = run(
        """
        from dataclasses import dataclass
        import tokenprune

        @dataclass(frozen=True)
        class Loud(tokenprune.Scorer):
            name = "loud"
            def score(self, tokens):
                return tokens.features.float().norm(dim=-1)

        class Wrong(Loud):
            def score(self, tokens):
                return super().score(tokens)[1:]

        def test_loud(tokenprune_check):
            tokenprune_check.scorer(Loud())

        def test_wrong(tokenprune_check):
            tokenprune_check.scorer(Wrong())
        """
    )
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "scorer 'loud' returned (23,) instead of (24,)" in done.stdout


CHECKS = tokenprune_pytest.Checks()


def test_every_check_of_the_testing_module_is_there():
    from tokenprune import testing

    names = {name.removeprefix("check_") for name in vars(testing) if name.startswith("check_")}
    assert names == {name for name in vars(tokenprune_pytest.Checks) if not name.startswith("_")}


def test_strategies_and_adapters():
    CHECKS.selector(tokenprune.selector("diverse"))
    CHECKS.reducer(tokenprune.reducer("pool"))
    CHECKS.method(tokenprune.method("divprune"))
    adapter = tokenprune.default_registry().find("adapter", "llava")
    CHECKS.adapter(adapter)
    with pytest.raises(AssertionError, match="is not an instance of tokenprune.Selector"):
        CHECKS.selector(tokenprune.scorer("zoo"))


def test_a_model():
    model = tiny_model("llava")
    found = CHECKS.model(model, methods=["stride"], keep=5)
    assert found.passed and found.budget == "keep=5"
    with pytest.raises(AssertionError, match="nothing could be checked: all with cdpruner: the scorer"):
        CHECKS.model(model, methods=["cdpruner"])
