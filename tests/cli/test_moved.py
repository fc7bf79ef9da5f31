# SPDX-License-Identifier: Apache-2.0
"""Old names say where things are now."""

import importlib
import subprocess
import sys

import pytest
from tokenprune_cli.app import app
from typer.testing import CliRunner


@pytest.mark.parametrize("module", ["", ".embedded_model", ".scenes", ".training", ".cli.app"])
def test_the_old_package_names_the_new_ones(module):
    with pytest.raises(ImportError, match="tokenprune_embedded.*python -m benchmarks.NAME"):
        importlib.import_module(f"tokenprune_bench{module}")


def test_the_old_console_path_is_one_line_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "tokenprune_bench", "list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "python -m tokenprune_cli" in done.stderr and "Traceback" not in done.stderr


def test_the_old_command_names_the_program():
    done = CliRunner().invoke(app, ["study", "layers"])
    assert done.exit_code == 2
    assert done.stderr == (
        "tokenprune: studies are run in a checkout of the repository: python -m benchmarks.studies layers\n"
    )
