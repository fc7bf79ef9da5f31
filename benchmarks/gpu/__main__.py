# SPDX-License-Identifier: Apache-2.0
"""Run every step that DIR has no record of, and write each record at once: `benchmarks/gpu/run.sh --out DIR`.

DIR/STEP.json holds what a step found, DIR/STEP.log what it printed. A second run resumes where the first one
ended; remove a file to have its step run again. Exit codes: 0 all steps have a good record; 1 a step failed;
2 bad input, or no GPU; 3 the time was up before the last step.
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
    """Kind of GPU and versions; nothing that names the machine."""
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
    """Why nothing can be run here, and what to do; None where it can."""
    if micro or "gpu" in found:
        return None
    return (
        f"PyTorch {found['torch']} finds no NVIDIA GPU on this machine, without which there is nothing to "
        "measure; run this where torch.cuda.is_available() is True, or try it on the CPU with --micro"
    )


def tests_found(file: Path) -> dict[str, Any]:
    """Outcomes of a run of pytest by test, with what pytest's report says of attention; from its XML."""
    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    attention: dict[str, int] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        name, word = f"{case.get('file')}::{case.get('name')}", "passed"
        for kind, outcome in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
            part = case.find(kind)
            if part is not None:
                name, word = f"{name}: {(part.get('message') or '').splitlines()[0][:300]}", outcome
        outcomes[word].append(name)
        for one in case.iter("property"):
            if one.get("name") == "attention" and word != "skipped":
                kind = str(one.get("value"))
                attention[kind] = attention.get(kind, 0) + 1
    counts = {word: len(names) for word, names in outcomes.items()}
    return {
        "counts": counts,
        "tests_by_attention": attention,
        "failed": outcomes["failed"],
        "skipped": outcomes["skipped"],
    }


def run(step: Step, out: Path, seconds: float, variables: Mapping[str, str]) -> dict[str, Any]:
    """Run a step in a process of its own, and stop it with all it started when its time is up."""
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
            except BaseException as error:  # also an interrupt: nothing is left running
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                code = None
        found: Any = None
        if record.is_file() and step.arguments[0] == "pytest":
            found = tests_found(record)
        elif record.is_file():  # tells its own command, with a path of this machine
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
    """Write a record whole or not at all."""
    new = file.with_suffix(".part")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.replace(file)


def is_finished(file: Path, step: Step) -> bool:
    """Whether an earlier run has this step's record, made by the same command."""
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
            print(f"{step.name}: finished before", flush=True)
            continue
        if left < LEAST:
            print(f"{step.name}: not begun, the {minutes:g} minutes are over; run this again", flush=True)
            return code or 3
        record = {**run(step, out, min(step.seconds, left), variables), "machine": found}
        write(record, file)
        print(f"{step.name}: {record['outcome']} in {record['seconds']} s", flush=True)
        if record["outcome"] != "done":
            print(f"  what it printed: {out / f'{step.name}.log'}", flush=True)
            code = 1
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu/run.sh", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where records go; made if missing"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no step after so long (default: 8)")
    parser.add_argument("--micro", action="store_true", help="tiny models on the CPU, to try the program")
    asked = parser.parse_args(arguments)
    if not asked.minutes > 0:
        parser.error(f"--minutes must be more than 0, got {asked.minutes:g}")
    try:
        found = machine()
    except ImportError as error:
        parser.error(
            f"{error}; {sys.executable} lacks it: name another Python, PYTHON=... benchmarks/gpu/run.sh"
        )
    reason = refusal(found, asked.micro)
    if reason is not None:
        parser.error(reason)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {asked.out} cannot be made: {error.strerror}; name another folder")
    return work(steps(asked.micro), asked.out.resolve(), asked.minutes, found)


if __name__ == "__main__":
    sys.exit(main())
