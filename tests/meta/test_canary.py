# SPDX-License-Identifier: Apache-2.0
"""The one line about the newest transformers says what happened, whatever happened."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("canary", Path(__file__).parents[2] / ".ci/canary.py")
canary = importlib.util.module_from_spec(spec)
spec.loader.exec_module(canary)

CASE = '<testcase classname="tests.core.test_a" file="tests/core/test_a.py" name="{}">{}</testcase>'


def results(tmp_path, *cases):
    path = tmp_path / "tests.xml"
    body = "".join(CASE.format(name, inside) for name, inside in cases)
    path.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    return path


def test_all_passed_and_what_was_skipped_is_not_counted(tmp_path):
    assert canary.outcome(results(tmp_path, ("a", ""), ("b", ""), ("c", "<skipped/>"))) == "all 2 passed"


def test_failures_and_errors_are_named(tmp_path):
    path = results(tmp_path, ("a", ""), ("b[x]", "<failure>why</failure>"), ("c", "<error>why</error>"))
    assert canary.outcome(path) == "2 of 3 failed: tests/core/test_a.py::b[x], tests/core/test_a.py::c"


def test_of_many_failures_the_first_are_named(tmp_path):
    path = results(tmp_path, *((f"t{i}", "<failure/>") for i in range(9)))
    assert canary.outcome(path).startswith("9 of 9 failed: tests/core/test_a.py::t0, ")
    assert canary.outcome(path).endswith("::t4, and 4 more")


@pytest.fixture
def scene(monkeypatch, tmp_path):
    """Play `make`: what each target prints, and the exit code."""

    def play(versions=("5.25.0", "5.24.0"), install=("", 0), test=("", 0), cases=None):
        environment = tmp_path / ".venv-newest"
        environment.mkdir()

        def run(command, log, seconds):
            text, code = install if command[1].startswith("install") else test
            log.write_text(text)
            if command[1] == "test-newest" and cases:
                results(environment, *cases)
            return code

        monkeypatch.setattr(canary, "ROOT", tmp_path)
        monkeypatch.setattr(canary, "run", run)
        monkeypatch.setattr(canary, "version", lambda folder: versions[folder == tmp_path / ".venv"])
        return canary.line("newest", 900, tmp_path / "log")

    return play


def test_a_run(scene):
    assert scene(cases=[("a", ""), ("b", "<failure/>")], test=("", 2)) == (
        "newest transformers 5.25.0: 1 of 2 failed: tests/core/test_a.py::b"
    )


def test_the_pinned_one_is_not_tested_again(scene):
    assert scene(versions=("5.24.0", "5.24.0")) == "newest transformers 5.24.0 is the pinned one"


def test_pips_error_is_said(scene):
    text = "Collecting transformers<6\nERROR: No matching distribution\nmake: *** [Makefile:1] Error 1\n"
    assert scene(install=(text, 2)) == (
        "newest transformers could not be installed: ERROR: No matching distribution"
    )


def test_pytests_error_is_said_where_no_test_ran(scene):
    text = "ImportError while loading conftest\nmake: *** [Makefile:1] Error 4\n"
    assert scene(test=(text, 2)) == "newest transformers 5.25.0: ImportError while loading conftest"


def test_the_limits_are_said(scene):
    assert scene(test=("", None)) == "newest transformers 5.25.0: tests were not done after 900 s"


def test_an_old_results_file_says_nothing(scene, tmp_path):
    results(tmp_path, ("a", ""))
    assert scene(test=("nothing\n", 2)) == "newest transformers 5.25.0: nothing"


def test_the_limit_ends_what_the_command_started(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert canary.run([sys.executable, "-c", parent], tmp_path / "log", 1) is None
    time.sleep(4)
    assert not mark.exists()


def test_output_and_exit_code_are_kept(tmp_path):
    code = "import sys; print('said'); sys.exit(3)"
    assert canary.run([sys.executable, "-c", code], tmp_path / "log", 60) == 3
    assert (tmp_path / "log").read_text() == "said\n"
