# SPDX-License-Identifier: Apache-2.0
"""Write held-out scenes and their questions to files: `python -m benchmarks.scenes FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.scenes.files import write_scenes


def main() -> None:
    """Parse the command line and write the scenes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    parser.add_argument("folder", type=Path, help="output folder; created if missing")
    parser.add_argument("--scenes", type=int, default=40, help="number of scenes (default: 40)")
    parser.add_argument("--start", type=int, default=0, help="number of the first scene (default: 0)")
    arguments = parser.parse_args()
    if arguments.scenes < 1:
        parser.error(f"--scenes must be at least 1, got {arguments.scenes}")
    if arguments.start < 0:
        parser.error(f"--start must be at least 0, got {arguments.start}")
    if arguments.folder.exists() and not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is a file; expected a folder")
    path = write_scenes(arguments.folder, arguments.scenes, arguments.start)
    n_questions = path.read_bytes().count(b"\n")
    print(f"{n_questions} questions about {arguments.scenes} scenes: {path}")


if __name__ == "__main__":
    main()
