# SPDX-License-Identifier: Apache-2.0
"""Measure rows of published tables with lmms-eval, in parallel, and compare the figures.

Each row is one run of lmms-eval with all its tasks. Rows whose results are in the output folder are skipped,
so an interrupted run continues where it was; a row that was running starts again. Exit codes: 0 all rows
have results; 1 a row failed; 2 invalid input.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # python benchmarks/paper/run.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # not this folder

from benchmarks.paper.report import write_reports
from benchmarks.paper.rows import DATA, read_rows, select_rows
from benchmarks.paper.work import Job, Variables, work


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the rows, and write the tables; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.tolerance >= 0:
        parser.error(f"--tolerance must be 0 or more, got {options.tolerance:g}")
    for name in ("gpus", "processes", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be 1 or more, got {value}")
    try:
        rows = read_rows(options.data)
        chosen = select_rows(rows, options.rows or [row.table for row in rows])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.benchmarks:
        known = list(dict.fromkeys(cell.benchmark for row in chosen for cell in row.cells))
        unknown = [name for name in options.benchmarks if name not in known]
        if unknown:
            parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
        chosen = [row.with_benchmarks(options.benchmarks) for row in chosen]
    runs = options.output / "runs"
    jobs = [Job(row, runs / row.name, options.limit) for row in chosen if row.command and row.cells]
    if options.dry_run:
        for job in jobs:
            tasks = job.missing()
            line = shlex.join(job.command(tasks)) if tasks else "# already finished"
            print(f"# {job.row.name}\n{line}")
        return 0
    tables = list(dict.fromkeys(row.table for row in chosen))

    def report(_: Job | None = None) -> list[Path]:
        return write_reports(rows, tables, options.output, options.tolerance, options.limit)

    try:
        options.output.mkdir(parents=True, exist_ok=True)
        lock = (options.output / "lock").open("w")
    except OSError as error:
        parser.error(f"--output {options.output} cannot be written: {error.strerror}")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.error(f"another run is writing to {options.output}")
        failed: list[Job] = []
        if not options.report:
            slots = _slots(parser, options)
            signal.signal(signal.SIGTERM, _stop)
            todo = [job for job in jobs if job.missing()]
            for job in jobs:
                if job not in todo:
                    print(f"{job.row.name}: already finished", flush=True)
            failed = work(todo, slots, report)
        for path in report():
            print(path)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME",
        help="tables (table-b), methods (table-b/ZOO-Prune) or rows (table-b/ZOO-Prune/64); default: all",
    )  # fmt: skip
    parser.add_argument(
        "--benchmarks", nargs="+", metavar="NAME", help="only these columns, such as GQA POPE"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpus", type=int, metavar="N", help="one process on each of N GPUs; default: all")
    place.add_argument("--processes", type=int, metavar="N", help="N processes on the CPU")
    parser.add_argument(
        "--output", type=Path, default=Path("out"), metavar="DIR", help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="POINTS",
        help="largest difference of a reproduced figure, in points of 100; MME: of 2800, in proportion "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only N questions a task, as a trial: nothing is compared"
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="DIR",
        help="folder with commands.csv, benchmarks.csv and table-*.csv (default: docs/data)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    parser.add_argument(
        "--report", action="store_true", help="run nothing; write the tables of what there is"
    )
    return parser


def _slots(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Variables]:
    """Return the environment variables of each parallel process."""
    if importlib.util.find_spec("lmms_eval") is None:
        parser.error("lmms-eval is not installed here; see docs/lmms-eval.md")
    if options.processes is not None:
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // options.processes)))
        cpu = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}
        return [cpu] * options.processes
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    n_visible = torch.cuda.device_count()
    visible = named.split(",")[:n_visible] if named else [str(number) for number in range(n_visible)]
    if len(visible) < (options.gpus or 1):
        parser.error(
            f"PyTorch finds {len(visible)} NVIDIA GPUs; give --gpus at most that number, or --processes N to "
            "use the CPU"
        )
    return [{"CUDA_VISIBLE_DEVICES": name} for name in visible[: options.gpus]]


def _stop(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
