#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a release takes, step by step; .github/workflows/release.yml and `make release-check` call it.

`.ci/release.py check [TAG]`  do the files name the same version? With TAG: is it that, and is it dated?
`.ci/release.py version`      print the version; `--minor`: 0.2 of 0.2.1
`.ci/release.py notes`        print this version's section of CHANGELOG.md
`.ci/release.py build`        build both distributions into dist/ and check their metadata
`.ci/release.py try WHEEL`    install it in a fresh environment for each Python, and run it there
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import try_wheel

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")


def found(pattern: str, file: str, text: str) -> str:
    """Return the group of a pattern that a file must have."""
    match = re.search(pattern, text, re.M)
    if match is None:
        raise SystemExit(f"{file} has no line like {pattern}")
    return match[1]


def version(root: Path = ROOT) -> str:
    """Return the version in pyproject.toml."""
    return found(r'^version = "(.+)"$', "pyproject.toml", (root / "pyproject.toml").read_text())


def section(wanted: str, root: Path = ROOT) -> tuple[str | None, str] | None:
    """Return the date in the heading of a version's changes, or None, and the lines below it.

    The headings are `## 0.2.0`, not released yet, and `## 0.2.0 (2026-12-24)`.
    """
    text = (root / "CHANGELOG.md").read_text()
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        heading, _, body = part.partition("\n")
        match = re.fullmatch(r"(\S+)(?: \((\d{4}-\d\d-\d\d)\))?", heading)
        if match is None:
            raise SystemExit(f"CHANGELOG.md: the heading {heading!r} is not like '0.2.0 (2026-12-24)'")
        if match[1] == wanted:
            return match[2], body.strip() + "\n"
    return None


def problems(tag: str | None, root: Path = ROOT) -> list[str]:
    """Return what stands in the way of a release, in words; without a tag nothing need be dated yet."""
    current, changes = version(root), section(version(root), root)
    citation = (root / "CITATION.cff").read_text()
    cited = found(r"^version: (\S+)$", "CITATION.cff", citation)
    released = re.search(r"^date-released: (\S+)$", citation, re.M)
    wrong = []
    if cited != current:
        wrong.append(f"CITATION.cff has version {cited}, pyproject.toml {current}")
    if changes is None:
        wrong.append(f"CHANGELOG.md has no section '## {current}'")
    elif not changes[1].strip():
        wrong.append(f"the section '## {current}' of CHANGELOG.md is empty")
    date = changes and changes[0]
    if released and released[1] != date:
        wrong.append(f"CITATION.cff has date-released {released[1]}, CHANGELOG.md {date or 'no date'}")
    if tag is None:
        return wrong
    if tag != f"v{current}":
        wrong.append(f"the tag is {tag}, of version {current} it must be v{current}")
    if changes and not date:
        wrong.append(f"CHANGELOG.md does not date '## {current}'; a release is '## {current} (YYYY-MM-DD)'")
    if not released:
        wrong.append("CITATION.cff has no line 'date-released: YYYY-MM-DD'")
    return wrong


def check(tag: str | None) -> int:
    """Print what stands in the way, and return the exit code."""
    wrong = problems(tag)
    for problem in wrong:
        print(problem, file=sys.stderr)
    if not wrong:
        print(f"{', '.join(FILES)}: version {version()}" + (f", as the tag {tag}" if tag else ""))
    return 1 if wrong else 0


def notes() -> int:
    """Print this version's changes."""
    changes = section(version())
    if changes is None:
        print(f"CHANGELOG.md has no section '## {version()}'", file=sys.stderr)
        return 1
    print(changes[1], end="")
    return 0


def build() -> int:
    """Build a source distribution, and from it the wheel; let twine check them."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    files = sorted(folder.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
    for file in files:
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(description="What a release takes, step by step.")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("check").add_argument("tag", nargs="?", help="the tag to release, such as v0.2.0")
    steps.add_parser("version").add_argument("--minor", action="store_true", help="0.2 of 0.2.1")
    steps.add_parser("notes")
    steps.add_parser("build")
    try_wheel.add_arguments(steps.add_parser("try"))
    options = parser.parse_args(arguments)
    if options.step == "version":
        print(".".join(version().split(".")[:2]) if options.minor else version())
        return 0
    if options.step == "try":
        return try_wheel.main(options)
    return check(options.tag) if options.step == "check" else {"notes": notes, "build": build}[options.step]()


if __name__ == "__main__":
    sys.exit(main())
