# SPDX-License-Identifier: Apache-2.0
"""The wheel holds what a checkout holds: every package, its data, and whatever its entry points name."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARENTS = (ROOT, ROOT / "plugins", ROOT / "adapters")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("tokenprune_vlm-*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def packages():
    """Every package of the repository that users import, with its folder's parent."""
    return [
        (parent, package)
        for parent in PARENTS
        for package in sorted(parent.glob("tokenprune*"))
        if (package / "__init__.py").exists()
    ]


def test_the_packages_are_found():
    assert {package.name for _, package in packages()} >= {
        "tokenprune",
        "tokenprune_vllm",
        "tokenprune_cli",
    }


@pytest.mark.parametrize(("parent", "package"), packages(), ids=lambda path: path.name)
def test_every_file_of_a_package_is_in_the_wheel(wheel, parent, package):
    wanted = {
        str(path.relative_to(parent))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(wheel.namelist())


def test_every_entry_point_names_a_module_in_the_wheel(wheel):
    names = set(wheel.namelist())
    (listed,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    groups = configparser.ConfigParser()
    groups.read_string(wheel.read(listed).decode())
    known = {"console_scripts", "tokenprune", "vllm.general_plugins", "lmms_eval.models", "pytest11"}
    assert known == set(groups.sections())
    for group in groups.sections():
        for target in groups[group].values():
            module = target.split(":")[0].replace(".", "/")
            assert {f"{module}.py", f"{module}/__init__.py"} & names, target
