# SPDX-License-Identifier: Apache-2.0
"""Fetch transformers' tests with pip: those of the source distribution of the version that is installed."""

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".upstream"  # ignored by git
MARK = "tests/test_modeling_common.py"


def suite(folder: Path = FOLDER) -> Path:
    """Return the folder that holds the tests; fetched on first use.

    Raises
    ------
    SystemExit
        When pip does not get the distribution, or when it has no such tests.
    """
    name = f"transformers-{version('transformers')}"
    if not (folder / name / MARK).is_file():
        folder.mkdir(exist_ok=True)
        unpack(download(folder, name), folder)
    if not (folder / name / MARK).is_file():
        raise SystemExit(f"the source distribution {name} has no {MARK}; this version cannot be tested so")
    return folder / name


def download(folder: Path, name: str) -> Path:
    """Let pip, as it is configured here, fetch the distribution and nothing it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    done = subprocess.run([*command, "--dest", str(folder), name.replace("-", "==", 1)])
    file = folder / f"{name}.tar.gz"
    if done.returncode or not file.is_file():
        raise SystemExit(f"pip fetched no source distribution of {name} (its message is above)")
    return file


def unpack(file: Path, folder: Path) -> None:
    """Unpack the tests alone, and remove the archive."""
    with tarfile.open(file) as archive:
        tests = [one for one in archive.getmembers() if one.name.split("/")[1:2] == ["tests"]]
        archive.extractall(folder, tests, filter="data")
    file.unlink()


if __name__ == "__main__":
    print(suite())
