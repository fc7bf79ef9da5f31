# SPDX-License-Identifier: Apache-2.0
"""A stranger with a fresh copy of the repository types what README.md and the quickstart show, in order.

The environment that they make borrows the packages of the one that runs the tests, and two commands are
shorter than they stand there. With TOKENPRUNE_FRESH=1 nothing is borrowed or shortened: pip installs from the
package index (6 GB), which took 39 minutes in all on two busy cores.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_environments import make_environment, pip_install, run
from shown_commands import blocks, lines, python_of

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/quickstart.md")
FRESH = os.environ.get("TOKENPRUNE_FRESH") == "1"
NOT_RUN = {  # and why
    "make test": "these tests would run themselves; `make -n` says what it would do",
    "tokenprune check --model llava-hf/llava-1.5-7b-hf": "downloads a checkpoint of 14 GB",
}
SHORTER = {  # appended to a command, which takes minutes as it stands
    "tokenprune demo": "--method zoo-exact --method divprune --keep 36 --scenes 4",
    "tokenprune check": "--family llava --family qwen2.5-vl --method zoo-exact --method fastv",
}
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "HF_HUB_OFFLINE": "1"}
# the stranger has no environment yet, and was not started by make
LEFT_OUT = ("PYTHONPATH", "VIRTUAL_ENV", "MAKELEVEL", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "GNUMAKEFLAGS")


class Stranger:
    """Types commands into /bin/sh, in a fresh copy of the repository, and remembers what they said."""

    def __init__(self, folder):
        self.copy, self.said, self._before = folder / "tokenprune", {}, []
        self._environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        programs = folder / "programs"
        programs.mkdir()
        python = Path(sys._base_executable)
        (programs / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n')
        (programs / "python3").chmod(0o755)
        self._environment["PATH"] = os.pathsep.join([str(programs), "/usr/local/bin", "/usr/bin", "/bin"])
        if not FRESH:
            self._environment |= OFFLINE

    def type(self, command):
        """Run a command, in the environment that was activated before; it must succeed."""
        if command.startswith(". "):
            self._before.append(command)
        script = "\n".join(["set -e", *self._before, command])
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            cwd=self.copy,
            env=self._environment,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.said[command] = done.stdout
        return done.stdout

    def follow(self, page):
        """Type every command of a page, and then run its Python as one script."""
        for line in (line for block in blocks(self.copy / page, "bash") for line in lines(block)):
            command = shlex.join(shlex.split(line, comments=True))
            if command == "make demo" and not FRESH:
                made = self.type("make -n demo").strip()  # only the program: the environment is ready
                assert made == ".venv/bin/tokenprune demo"
                self.said[command] = self.type(f"{made} {SHORTER['tokenprune demo']}")
            elif command in SHORTER and not FRESH:
                self.said[command] = self.type(f"{command} {SHORTER[command]}")
            elif command not in NOT_RUN:
                self.type(command)
        script = self.copy / "page.py"
        script.write_text("\n".join(python_of(self.copy / page)))
        self.said[page] = self.type(".venv/bin/python page.py")


def copy_of_the_repository(folder):
    """Copy the files of the working tree, without those that git ignores."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """One who has typed everything."""
    if not (ROOT / ".git").exists() or shutil.which("make") is None:
        pytest.skip("needs a clone, git and make, as README.md says")
    stranger = Stranger(tmp_path_factory.mktemp("stranger"))
    copy_of_the_repository(stranger.copy)
    if not FRESH:  # what `make demo` would do first
        python = make_environment(stranger.copy / ".venv", pip=True)
        pip_install(python, "-e", ".", folder=stranger.copy)
        (stranger.copy / ".venv/.ready").touch()
    for page in PAGES:
        stranger.follow(page)
    return stranger


def test_the_demo_ends_with_a_table_a_verdict_and_pictures(stranger):
    said = stranger.said["make demo"]
    assert "Which method is best here" in said and "zoo-exact" in said
    assert (stranger.copy / "demo-output/zoo-exact.png").is_file()


def test_what_was_installed_is_the_copy(stranger):
    where = stranger.type("cd /; python -c 'import tokenprune; print(tokenprune.__file__)'").strip()
    assert Path(where).is_relative_to(stranger.copy)
    plugins = json.loads(stranger.type("tokenprune plugins --json"))["plugins"]
    assert len(plugins) > 50 and {plugin["state"] for plugin in plugins} == {"loaded"}


def test_the_check_passes(stranger):
    assert re.search(r"^passed: all \d+ checks", stranger.said["tokenprune check"], re.M)


def test_the_gate_runs_the_target_that_readme_names(stranger):
    assert re.search(r"^tests=\(test ", (ROOT / ".ci/run").read_text(), re.M)
    assert "-m pytest" in stranger.type("make -n test").splitlines()[-1]


def test_the_python_of_the_pages_prints_what_they_say(stranger):
    readme, quickstart = (stranger.said[page] for page in PAGES)
    for said in (readme, quickstart):
        assert "36 of 144 visual tokens kept in 1 image(s)" in said
    assert "unknown method 'zoo-prun'. Did you mean 'zoo-prune'" in quickstart


def test_what_is_not_run_or_shorter_is_shown():
    shown = {
        shlex.join(shlex.split(line, comments=True))
        for page in PAGES
        for block in blocks(ROOT / page, "bash")
        for line in lines(block)
    }
    assert NOT_RUN.keys() | {"make demo", "tokenprune check"} <= shown
