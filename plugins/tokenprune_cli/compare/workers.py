# SPDX-License-Identifier: Apache-2.0
"""Several processes that each answer some of the batches; only the first process writes."""

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

from tokenprune_cli.compare.answers import Work, answer
from tokenprune_cli.compare.conversation import TRACK, converse
from tokenprune_cli.compare.question_set import QuestionSet, embedded_scenes, questions_from_file
from tokenprune_cli.console.failures import BadInputError, quietly
from tokenprune_cli.console.models import Device, Precision, load_model
from tokenprune_cli.evaluation.settings import Setting

LOOK = 2.0  # seconds between looks at whether a process has died
Pending = Sequence[tuple[str, int, tuple[Setting, ...]]]  # track, batch, and settings it still lacks


@dataclass(frozen=True)
class Source:
    """Where the model and the questions come from; a process loads both by it."""

    model: str | None
    device: Device
    precision: Precision
    trust_remote_code: bool
    questions: Path | int  # a file, or how many scenes
    metric: str
    pixels: tuple[int | None, int | None] = (None, None)

    def load_model(self) -> tuple[Any, Any]:
        """Model and processor."""
        model, processor = load_model(self.model, self.device, self.precision, self.trust_remote_code)
        set_pixels(processor, *self.pixels)
        return model, processor

    def load_questions(self) -> QuestionSet:
        """Read or draw the questions."""
        if isinstance(self.questions, int):
            return embedded_scenes(self.questions)
        return questions_from_file(self.questions, self.metric)


def set_pixels(processor: Any, least: int | None, most: int | None) -> None:
    """Pin the pixels a picture has at least and at most, where the processor keeps its shape."""
    if least is None and most is None:
        return
    size = dict(processor.image_processor.size)
    if size.get("shortest_edge") is None or size.get("longest_edge") is None:
        raise BadInputError(
            "--min-pixels and --max-pixels are for models that take pictures of any size, as Qwen2.5-VL; "
            f"this one's processor resizes to {size}"
        )
    size["shortest_edge"] = size["shortest_edge"] if least is None else least
    size["longest_edge"] = size["longest_edge"] if most is None else most
    processor.image_processor.size = size


def answer_pending(
    model: Any, processor: Any, questions: QuestionSet, work: Work, pending: Pending
) -> Iterator[dict[str, Any]]:
    """Do pieces of work in this process; yield lines for the journal."""
    for track, number, settings in pending:
        do = converse if track == TRACK else answer
        yield from do(model, processor, questions, work, number, settings)


def answer_in_processes(
    source: Source, work: Work, pending: Pending, n_processes: int
) -> Iterator[dict[str, Any]]:
    """Share batches out to processes of one thread each; yield lines as they come."""
    context = multiprocessing.get_context("spawn")
    lines: Any = context.Queue()
    shares = [list(pending[i::n_processes]) for i in range(n_processes)]
    processes = [
        context.Process(target=_answer_share, args=(source, work, share, lines), daemon=True)
        for share in shares
        if share
    ]
    with _without_interrupts():
        for process in processes:
            process.start()
    left = len(processes)
    try:
        while left:
            try:
                line = lines.get(timeout=LOOK)
            except queue.Empty:
                if sum(process.exitcode in (None, 0) for process in processes) < len(processes):
                    raise BadInputError(
                        "a process that was answering questions has died; what was answered is kept, and "
                        "the same command goes on from there (with --workers 1 it says why)"
                    ) from None
                continue
            if isinstance(line, BadInputError):
                raise line
            if line is None:
                left -= 1
            else:
                yield line
    finally:
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C from their first moment: this one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer_share(source: Source, work: Work, share: Pending, lines: Any) -> None:
    """What a process does; None says that it is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from tokenprune import TokenPruneError

    torch.set_num_threads(1)
    try:
        with quietly():
            model, processor = source.load_model()
            questions = source.load_questions()
            for line in answer_pending(model, processor, questions, work, share):
                lines.put(line)
    except (BadInputError, TokenPruneError) as error:
        lines.put(BadInputError(str(error)))  # to be said once, by the first process
        return
    lines.put(None)
