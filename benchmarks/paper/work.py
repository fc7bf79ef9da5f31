# SPDX-License-Identifier: Apache-2.0
"""Run rows in parallel processes of lmms-eval, and leave none behind."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.results import read_results
from benchmarks.paper.rows import Row

Variables = Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """A row and where its results go.

    Parameters
    ----------
    folder
        lmms-eval's output, and its log.
    limit
        Number of questions a task, None for all.
    """

    row: Row
    folder: Path
    limit: int | None = None

    def missing(self) -> tuple[str, ...]:
        """Return the tasks without results."""
        found = read_results(self.folder, self.row, self.limit)
        return tuple(task for task in self.row.tasks if task not in found)

    def command(self, tasks: Sequence[str]) -> list[str]:
        """Return the one command for these tasks, as typed."""
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        more = ["--tasks", ",".join(tasks), *limit, "--output_path", str(self.folder)]
        return [*(self.row.command or ()), *more]

    @property
    def log(self) -> Path:
        """Where the process's output goes."""
        return self.folder / "log.txt"

    def start(self, variables: Variables) -> subprocess.Popen[bytes]:
        """Start lmms-eval in this Python for the missing tasks, in a process group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "lmms_eval", *self.command(self.missing())[1:]]
        with self.log.open("w") as log:
            log.write(f"{shlex.join(command)}\n")
            log.flush()
            return subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )


def work(
    jobs: Sequence[Job], slots: Sequence[Variables], after: Callable[[Job], object], pause: float = 0.2
) -> list[Job]:
    """Run jobs, one in each slot at a time, and return those that failed.

    Parameters
    ----------
    slots
        Environment variables of each parallel process.
    after
        Called after each job.
    pause
        Seconds between looks at the processes.
    """
    todo, failed = list(jobs), []
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while todo or running:
            for slot, variables in enumerate(slots):
                if slot not in running and todo:
                    job = todo.pop(0)
                    print(f"{job.row.name}: started", flush=True)
                    running[slot] = (job, job.start(variables), time.monotonic())
            time.sleep(pause)
            for slot, (job, process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                left = job.missing()  # lmms-eval ends with exit code 0 after most errors
                seconds = time.monotonic() - started
                if left:
                    failed.append(job)
                    print(f"{job.row.name}: no results of {', '.join(left)}; see {job.log}", flush=True)
                else:
                    print(f"{job.row.name}: finished in {seconds:.0f} s", flush=True)
                after(job)
    finally:
        for _, process, _ in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return failed


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, however it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
