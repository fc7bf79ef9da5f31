#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Try a transformers that nothing pins, and say in one line how that went.

`.ci/canary.py newest` takes the newest release, `.ci/canary.py main` the branch that becomes the next one.
Failed tests are no failure here: `make test-newest` and `make test-main` show them in full.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
LABELS = {"newest": "newest transformers", "main": "main branch of transformers"}
NAMED = 5
"""Failed tests that the line names."""


def run(command: list[str], log: Path, seconds: float) -> int | None:
    """Run a command, keep what it prints, and return its exit code; None if it was stopped by the limit."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def complaint(log: Path) -> str:
    """Return the line that says what went wrong: pip's or pytest's error, else the last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("make")]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it printed nothing"])[-1]


def version(environment: Path) -> str:
    """Return the version of transformers in an environment."""
    code = "from importlib.metadata import version; print(version('transformers'))"
    return subprocess.check_output([environment / "bin/python", "-c", code], text=True).strip()


def outcome(results: Path) -> str:
    """Return what pytest's results file says: how many tests ran, which of them failed."""
    ran, failed = 0, []
    for case in ElementTree.parse(results).iter("testcase"):
        ran += case.find("skipped") is None
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append("::".join(part for part in (case.get("file"), case.get("name")) if part))
    if not failed:
        return f"all {ran} passed"
    more = f", and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return f"{len(failed)} of {ran} failed: {', '.join(failed[:NAMED])}{more}"


def line(name: str, seconds: float, log: Path) -> str:
    """Install, test, and return the line."""
    label = LABELS[name]
    environment = ROOT / f".venv-{name}"
    results = environment / "tests.xml"
    end = time.monotonic() + seconds
    code = run(["make", f"install-{name}"], log, seconds)
    if code != 0:
        why = complaint(log) if code else f"not done after {seconds:.0f} s"
        return f"{label} could not be installed: {why}"
    label = f"{label} {version(environment)}"
    if version(environment) == version(ROOT / ".venv"):
        return f"{label} is the pinned one"
    results.unlink(missing_ok=True)
    if run(["make", f"test-{name}"], log, end - time.monotonic()) is None:
        return f"{label}: tests were not done after {seconds:.0f} s"
    return f"{label}: {outcome(results) if results.exists() else complaint(log)}"


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description="Try a transformers that nothing pins.")
    parser.add_argument("name", choices=LABELS)
    parser.add_argument("--seconds", type=float, default=900, help="of all, then it is stopped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(line(options.name, options.seconds, Path(folder) / "log"))


if __name__ == "__main__":
    main()
