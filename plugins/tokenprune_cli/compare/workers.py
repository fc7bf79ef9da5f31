# SPDX-License-Identifier: Apache-2.0
"""Answer in several processes, each of which takes some of the batches; only the first process writes."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenprune_evaluation.question_file import DEFAULT_METRIC
from tokenprune_evaluation.question_set import QuestionSet, embedded_scenes, questions_from_file
from tokenprune_evaluation.settings import Setting

from tokenprune import TokenPruneError
from tokenprune_cli.compare.answers import AnswerOptions, Run, answer
from tokenprune_cli.compare.conversation import TRACK, converse
from tokenprune_cli.console.failures import BadInputError, quietly
from tokenprune_cli.console.models import Device, Precision, load_model

SCENES = 40  # by default; about 540 questions
POLL_SECONDS = 2.0  # interval for checking whether a process has died
Pending = Sequence[tuple[str, int, tuple[Setting, ...]]]  # track, batch, and the settings it lacks


@dataclass(frozen=True)
class Source:
    """Where a command's model and questions come from; every process loads its own.

    The questions are those of the file `questions`, whose lines are judged by `metric` if they name none, or
    those about the first `scenes` embedded scenes. `pixels` are the minimum and the maximum of a picture.
    """

    model: str | None
    device: Device
    precision: Precision
    trust_remote_code: bool
    questions: Path | None = None
    metric: str | None = None
    scenes: int | None = None
    pixels: tuple[int | None, int | None] = (None, None)

    def load_model(self) -> tuple[Any, Any]:
        """Load the model and its processor."""
        model, processor = load_model(self.model, self.device, self.precision, self.trust_remote_code)
        set_pixels(processor, *self.pixels)
        return model, processor

    def load_questions(self) -> QuestionSet:
        """Load the questions, after a check of the options that choose them."""
        if self.questions is not None and self.scenes is not None:
            raise BadInputError("give either --questions or --scenes, not both")
        if self.questions is not None:
            return questions_from_file(self.questions, self.metric or DEFAULT_METRIC)
        if self.metric is not None:
            raise BadInputError("--metric goes with --questions; answers about the scenes are exact matches")
        return embedded_scenes(self.scenes or SCENES)


def set_pixels(processor: Any, minimum: int | None, maximum: int | None) -> None:
    """Limit the pixels of a picture, if the processor keeps its aspect ratio."""
    if minimum is None and maximum is None:
        return
    size = dict(processor.image_processor.size)
    if size.get("shortest_edge") is None or size.get("longest_edge") is None:
        raise BadInputError(
            "--min-pixels and --max-pixels are for models that take pictures of any size, as Qwen2.5-VL; "
            f"this one's processor resizes to {size}"
        )
    size["shortest_edge"] = size["shortest_edge"] if minimum is None else minimum
    size["longest_edge"] = size["longest_edge"] if maximum is None else maximum
    processor.image_processor.size = size


def answer_pending(run: Run, pending: Pending) -> Iterator[dict[str, Any]]:
    """Answer batches in this process; yields lines for the journal."""
    for track, number, settings in pending:
        yield from (converse if track == TRACK else answer)(run, number, settings)


def answer_in_processes(
    source: Source, options: AnswerOptions, pending: Pending, n_processes: int
) -> Iterator[dict[str, Any]]:
    """Distribute batches among processes with one thread each; yields lines for the journal as they come."""
    context = multiprocessing.get_context("spawn")
    lines: Any = context.Queue()
    processes = [
        context.Process(target=_answer_share, args=(source, options, share, lines), daemon=True)
        for share in (list(pending[i::n_processes]) for i in range(n_processes))
        if share
    ]
    with _without_interrupts():
        for process in processes:
            process.start()
    running = len(processes)
    try:
        while running:
            try:
                line = lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if all(process.exitcode in (None, 0) for process in processes):
                    continue
                raise BadInputError(
                    "a process that was answering questions has died; its answers are kept, and the same "
                    "command resumes the run (with --workers 1 it says why)"
                ) from None
            if isinstance(line, BadInputError):
                raise line
            if line is None:
                running -= 1
            else:
                yield line
    finally:
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes started in this block ignore Ctrl-C from the beginning; this process terminates them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer_share(source: Source, options: AnswerOptions, share: Pending, lines: Any) -> None:
    """Answer batches in a process of its own; puts None when done, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        with quietly():
            run = Run(*source.load_model(), source.load_questions(), options)
            for line in answer_pending(run, share):
                lines.put(line)
    except (BadInputError, TokenPruneError) as error:
        lines.put(BadInputError(str(error)))  # the first process reports it, once
        return
    lines.put(None)
