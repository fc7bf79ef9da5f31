# SPDX-License-Identifier: Apache-2.0
"""A vLLM engine in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tokenprune_evaluation.errors import BadInputError

from tokenprune_serving.child import MARK

PROGRAM = (sys.executable, "-m", "tokenprune_serving.child")
# vLLM's own settings; the name of a plugin that does not exist disables all plugins
SETTINGS = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
WITHOUT_PLUGIN = {"VLLM_PLUGINS": "none"}
PATIENCE = 60  # seconds until an engine that does not stop is killed


class EngineProcess:
    """An engine that has started, and answers rounds of requests.

    Parameters
    ----------
    task
        What the child is given; see `child`.
    plugin
        Whether vLLM loads plugins.
    """

    def __init__(self, task: dict[str, Any], plugin: bool) -> None:
        settings = SETTINGS | ({} if plugin else WITHOUT_PLUGIN)
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # a pipe that nobody reads would fill
        self._process = subprocess.Popen(
            ["env", *(f"{name}={value}" for name, value in settings.items()), *PROGRAM, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def started(self) -> None:
        """Wait until it can answer.

        Raises
        ------
        BadInputError
            If it stops, with its last words.
        """
        self._answer()

    def serve(self, clients: int, requests: int, seed: int) -> dict[str, Any]:
        """Send a round of requests and return how long they took; see `child.serve`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why it stopped
            print(
                json.dumps({"clients": clients, "requests": requests, "seed": seed}),
                file=self._process.stdin,
                flush=True,
            )
        return self._answer()

    def stop(self) -> None:
        """Stop the engine and wait until it has."""
        try:
            self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        finally:
            self._errors.close()

    def _answer(self) -> dict[str, Any]:
        for line in self._lines():
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        self._process.wait()
        self._errors.seek(0)
        raise BadInputError(f"vLLM did not run: {last_words(self._errors.read())}")

    def _lines(self) -> Iterator[str]:
        assert self._process.stdout is not None
        return iter(self._process.stdout.readline, "")


def last_words(errors: str) -> str:
    """Return the last line that names tokenprune (engines append tracebacks), else the last line."""
    lines = errors.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if "tokenprune:" in line), lines[-1]).strip()
