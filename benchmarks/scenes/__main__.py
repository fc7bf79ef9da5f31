# SPDX-License-Identifier: Apache-2.0
"""Write held-out scenes and their questions as files: `python -m benchmarks.scenes FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.scenes.files import write_scenes


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--scenes", type=int, default=40, help="how many (default: 40)")
    given = parser.parse_args()
    if given.scenes < 1:
        parser.error(f"--scenes must be 1 or more, got {given.scenes}")
    if given.folder.exists() and not given.folder.is_dir():
        parser.error(f"{given.folder} is a file; give a folder")
    path = write_scenes(given.folder, given.scenes)
    n_questions = path.read_bytes().count(b"\n")
    print(f"{n_questions} questions about {given.scenes} scenes: {path}")


if __name__ == "__main__":
    main()
