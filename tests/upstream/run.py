# SPDX-License-Identifier: Apache-2.0
"""Run transformers' suite over stock and pruned models: `python tests/upstream/run.py [MODE ...]`.

One process for each mode, one after another; a JSON line for each test in `.upstream/results`. Ends with a
table, and exit code 1 where a pruned run differs from stock otherwise than `expected.json` says.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from fetch import FOLDER, suite
from judge import LIST, Verdict, judge, read_list, read_record, unused
from modes import MODES, USUAL

HERE = Path(__file__).parent


def results() -> Path:
    """Folder of the records, one for the versions that are installed."""
    names = ("transformers", "torch")
    return FOLDER / "results" / "-".join(f"{name}-{version(name)}" for name in names)


def run(mode: str, tests: Path, folder: Path) -> None:
    """Run one mode, and say how that went."""
    record, log = folder / f"{mode}.jsonl", folder / f"{mode}.log"
    record.unlink(missing_ok=True)
    own = ["-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE)]  # else that of the folder both paths share
    command = [sys.executable, "-m", "pytest", "-q", *own, str(HERE), "--suite", str(tests), "--mode", mode]
    started = time.monotonic()
    with log.open("w") as output:
        subprocess.run(
            [*command, "--record", str(record)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )
    seconds = time.monotonic() - started
    last = log.read_text(errors="replace").splitlines()[-1:]
    print(f"{mode}: {seconds:.0f} s; {' '.join(last)}", flush=True)


def table(verdicts: list[Verdict]) -> str:
    """One line for each mode."""
    lines = [f"{'mode':17} {'passed':>6} {'failed':>6} {'skipped':>7} {'listed':>6} {'wrong':>5}"]
    lines += [
        f"{v.mode:17} {v.passed:6} {v.failed:6} {v.skipped:7} {len(v.expected):6} {len(v.wrong):5}"
        for v in verdicts
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for, or all usual modes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"default: {' '.join(USUAL)}")
    parser.add_argument("--judge-only", action="store_true", help="compare the records there are")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.modes if name not in MODES]
    if unknown:
        parser.error(f"there is no mode {', '.join(unknown)}; modes: {', '.join(MODES)}")
    modes, folder = list(dict.fromkeys(asked.modes)) or list(USUAL), results()
    folder.mkdir(parents=True, exist_ok=True)
    if "stock" not in modes and not (folder / "stock.jsonl").is_file():
        modes.insert(0, "stock")  # what the others are held against
    if not asked.judge_only:
        tests = suite()
        for mode in modes:
            run(mode, tests, folder)
    runs = {}
    for mode in dict.fromkeys(["stock", *modes]):
        try:
            runs[mode] = read_record(folder / f"{mode}.jsonl")
        except ValueError as error:
            print(f"{mode}: {error}; see {folder / f'{mode}.log'}")
            return 1
    entries = read_list()
    verdicts = [judge(mode, found, runs["stock"], entries) for mode, found in runs.items()]
    print(table(verdicts))
    for verdict in verdicts:
        for line in verdict.wrong:
            print(f"{verdict.mode}: {line}")
    idle = unused(entries, runs)
    for entry in idle:
        print(f"{LIST.name} lists {entry.test} in {entry.mode}, which matches no test: remove the entry")
    return int(bool(idle) or any(verdict.wrong for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
