# SPDX-License-Identifier: Apache-2.0
"""Run every step without a record in DIR, and write each record at once: `benchmarks/gpu/run.sh --out DIR`.

DIR/STEP.json contains the results of a step, DIR/STEP.log its output. A second run resumes an interrupted
one; remove a file to repeat its step. Exit codes: 0 all steps succeeded; 1 a step failed; 2 invalid input, or
no GPU; 3 out of time before the last step.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu.checkout import ROOT, environment
from benchmarks.gpu.steps import Step, steps

LEAST = 20.0
"""Seconds that must be left for a step to begin."""


def machine() -> dict[str, Any]:
    """Return the GPU type and versions, without anything that identifies the machine."""
    import torch
    import transformers
    from transformers.utils import is_flash_attn_2_available

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "flash_attention": "flash-attn" if is_flash_attn_2_available() else "SDPA's flash backend",
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": gpu.name,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def refusal(found: Mapping[str, Any], micro: bool) -> str | None:
    """Return why the steps cannot run here and what to do, or None if they can."""
    if micro or "gpu" in found:
        return None
    return (
        f"PyTorch {found['torch']} finds no NVIDIA GPU on this machine; run this where "
        "torch.cuda.is_available() is True, or try it on the CPU with --micro"
    )


def tests_found(file: Path) -> dict[str, Any]:
    """Read outcomes by test, and the attention implementations used, from an XML report of pytest."""
    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    attention: dict[str, int] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        name, word = f"{case.get('file')}::{case.get('name')}", "passed"
        for kind, outcome in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
            part = case.find(kind)
            if part is not None:
                name, word = f"{name}: {(part.get('message') or '').splitlines()[0][:300]}", outcome
        outcomes[word].append(name)
        for item in case.iter("property"):
            if item.get("name") == "attention" and word != "skipped":
                kind = str(item.get("value"))
                attention[kind] = attention.get(kind, 0) + 1
    counts = {word: len(names) for word, names in outcomes.items()}
    return {
        "counts": counts,
        "tests_by_attention": attention,
        "failed": outcomes["failed"],
        "skipped": outcomes["skipped"],
    }


def run(step: Step, out: Path, seconds: float, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a step in a separate process, and stop it and its children when its time is up."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        arguments = [argument.replace("{record}", str(record)) for argument in step.arguments]
        with (out / f"{step.name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(seconds)
            except BaseException as error:  # also for an interrupt: leave nothing running
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                code = None
        found: Any = None
        if record.is_file() and step.arguments[0] == "pytest":
            found = tests_found(record)
        elif record.is_file():  # contains its command, with a path on this machine
            text = record.read_text(encoding="utf-8").replace(str(record), f"{step.name}.json")
            found = json.loads(text)
    outcome = "done" if code == 0 else "out of time" if code is None else "failed"
    return {
        "step": step.name,
        "outcome": outcome,
        "exit_code": code,
        "seconds": round(time.monotonic() - started, 1),
        "command": ["python", "-m", *step.arguments],
        "found": found,
    }


def write(record: Mapping[str, Any], file: Path) -> None:
    """Write a record atomically."""
    new = file.with_suffix(".part")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.replace(file)


def is_finished(file: Path, step: Step) -> bool:
    """Return whether there is a record of this step from the same command."""
    if not file.is_file():
        return False
    record = json.loads(file.read_text(encoding="utf-8"))
    return bool(record["outcome"] == "done" and record["command"][2:] == list(step.arguments))


def work(chosen: Sequence[Step], out: Path, minutes: float, found: Mapping[str, Any]) -> int:
    """Run the steps that are not finished, and return the exit code."""
    ends = time.monotonic() + 60 * minutes
    variables, code = environment(out / "site"), 0
    for step in chosen:
        file, left = out / f"{step.name}.json", ends - time.monotonic()
        if is_finished(file, step):
            print(f"{step.name}: already finished", flush=True)
            continue
        if left < LEAST:
            print(f"{step.name}: not started, the {minutes:g} minutes are over; run this again", flush=True)
            return code or 3
        record = {**run(step, out, min(step.seconds, left), variables), "machine": found}
        write(record, file)
        print(f"{step.name}: {record['outcome']} in {record['seconds']} s", flush=True)
        if record["outcome"] != "done":
            print(f"  output: {out / f'{step.name}.log'}", flush=True)
            code = 1
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the steps."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu/run.sh", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="output folder for records; created if missing"
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="start no step after this many minutes (default: 8)"
    )
    parser.add_argument(
        "--micro", action="store_true", help="use tiny models on the CPU, to test the program"
    )
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes must be more than 0, got {options.minutes:g}")
    try:
        found = machine()
    except ImportError as error:
        parser.error(
            f"{error}; {sys.executable} lacks it: use another Python, PYTHON=... benchmarks/gpu/run.sh"
        )
    reason = refusal(found, options.micro)
    if reason is not None:
        parser.error(reason)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out} cannot be created: {error.strerror}; use another folder")
    return work(steps(options.micro), options.out.resolve(), options.minutes, found)


if __name__ == "__main__":
    sys.exit(main())
