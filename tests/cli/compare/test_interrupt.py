# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in a comparison with several processes: no traceback of any of them, exit code 130, answers kept."""

import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
def test_an_interrupt_ends_all_processes_without_a_traceback(untrained, tmp_path):
    options = ["--model", str(untrained), "--scenes", "20", "--batch", "4", "--workers", "2"]
    command = [sys.executable, "-m", "tokenprune_cli", "compare", *options, "--output", str(tmp_path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    journal = tmp_path / untrained.name / "answers.jsonl"
    try:
        end = time.monotonic() + 120
        while not journal.exists() or journal.read_text().count("\n") < 2:  # a first line was answered
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of them get it
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors


def test_an_interrupt_while_processes_are_starting_is_ignored_by_them(untrained, tmp_path):
    from tokenprune_cli.compare.workers import _without_interrupts

    before = signal.getsignal(signal.SIGINT)
    with _without_interrupts():
        said = subprocess.run(
            [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert said.stdout.strip() == "True"
    assert signal.getsignal(signal.SIGINT) is before
