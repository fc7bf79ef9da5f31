#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Publish the documentation of two versions with mike as a release does, but in a clone that is thrown away.

`.ci/docs_versions.py FOLDER` leaves the pages in FOLDER. What is committed is built, and nothing is pushed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import release

PREVIOUS = "0.0"  # stands for the version before


def run(command: list[str], folder: Path) -> None:
    """Run a program of this interpreter's environment, or git, in a folder."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    author = {"GIT_AUTHOR_NAME": "docs", "GIT_AUTHOR_EMAIL": "docs@example.org"}
    author |= {name.replace("AUTHOR", "COMMITTER"): value for name, value in author.items()}
    print("$", *command, flush=True)
    subprocess.run(command, cwd=folder, env=os.environ | author | {"PATH": programs}, check=True)


def publish(clone: Path, versions: list[str]) -> None:
    """Deploy each version, the last of them as the latest, onto the branch gh-pages of a clone."""
    for version in versions:
        run(["mike", "deploy", "--update-aliases", version, "latest"], clone)
    run(["mike", "set-default", "latest"], clone)


def wrong(folder: Path, versions: list[str]) -> list[str]:
    """Return what is not as it should be in the published pages."""
    listed = json.loads((folder / "versions.json").read_text())
    wanted = [
        {"version": version, "title": version, "aliases": ["latest"] if version == versions[-1] else []}
        for version in reversed(versions)
    ]
    found = [] if listed == wanted else [f"versions.json is {listed}, not {wanted}"]
    folders = [folder, *(folder / name for name in (*versions, "latest"))]
    return found + [f"{page} has no index.html" for page in folders if not (page / "index.html").is_file()]


def main() -> int:
    """Clone, publish there, and copy the pages."""
    parser = argparse.ArgumentParser(description="Publish two versions of the documentation in a clone.")
    parser.add_argument("folder", type=Path, help="where the pages go; replaced if it exists")
    folder = parser.parse_args().folder.resolve()
    versions = [PREVIOUS, ".".join(release.version().split(".")[:2])]
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place, "clone")
        run(["git", "clone", "--quiet", "--no-hardlinks", str(release.ROOT), str(clone)], Path(place))
        run(["git", "remote", "remove", "origin"], clone)  # so that nothing can be pushed
        publish(clone, versions)
        shutil.rmtree(folder, ignore_errors=True)
        run(["git", "worktree", "add", "--quiet", str(Path(place, "pages")), "gh-pages"], clone)
        shutil.copytree(Path(place, "pages"), folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    problems = wrong(folder, versions)
    print(*(problems or [f"{folder.name}: versions {' and '.join(versions)}"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
