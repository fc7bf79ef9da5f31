# SPDX-License-Identifier: Apache-2.0
"""Answer a batch of questions under several settings, which share the vision tower's output."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.pictures import picture_path, save_kept, save_seen
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import Setting, key
from tokenprune_evaluation.shared_tower import shared_tower

import tokenprune

QUESTIONS = "questions"  # the track in which every question is asked on its own


@dataclass(frozen=True)
class AnswerOptions:
    """Options for answering: batch size, maximum length of the answers, and the seed of random methods.

    Pictures of the example questions are saved in the directory `pictures`, unless it is None.
    """

    batch: int
    max_new_tokens: int
    seed: int
    pictures: Path | None = None


@dataclass(frozen=True)
class Run:
    """A model, its processor, the questions that it answers, and the options for answering."""

    model: Any
    processor: Any
    questions: QuestionSet
    options: AnswerOptions

    @property
    def n_batches(self) -> int:
        """Number of batches of questions."""
        return -(-len(self.questions.items) // self.options.batch)


def answer(run: Run, number: int, settings: Sequence[Setting]) -> Iterator[dict[str, Any]]:
    """Answer batch `number` under each of the settings.

    Yields
    ------
    dict
        A line for the journal: `cell`, `batch` and `track`, and either `refused`, the reason why the model
        cannot run under the setting, or `answers` with the rows entering each layer (`rows`, as [layer, rows]
        where they change), how many of them are text (`text`), the number of visual tokens before pruning
        (`tokens`), the mean size of the cache in bytes, and the slots that were `kept` for each example
        question, by its number (None: all).
    """
    questions, options = run.questions, run.options
    numbers = range(len(questions.items))[number * options.batch : (number + 1) * options.batch]
    examples = [(row, i) for row, i in enumerate(numbers) if i in questions.examples]
    batch = questions.inputs(run.processor, numbers)
    with shared_tower(run.model):
        for setting in settings:
            line = {"cell": key(setting), "batch": number, "track": QUESTIONS}
            try:
                with setting.applied(run.model, options.seed) as handle:
                    answers = answer_batch(
                        run.model, run.processor, batch, handle, setting, options.max_new_tokens
                    )
                    report = None if handle is None else handle.last
            except tokenprune.TokenPruneError as error:
                yield {**line, "refused": str(error)}
                continue
            if options.pictures is not None:
                for row, i in examples:
                    path = picture_path(options.pictures, key(setting), i)
                    if report is not None:
                        image = next(image for image in report.images if image.row == row)
                        save_kept(path, image, batch, run.processor)
                    else:
                        share = (answers[row].n_visual / answers[row].n_visual_before) ** 0.5
                        save_seen(path, questions.open_image(questions.items[i].image), share)
            yield {
                **line,
                "answers": [a.text for a in answers],
                "rows": [changes(a.rows) for a in answers],
                "text": [a.rows[-1] - a.n_visual for a in answers],
                "tokens": [a.n_visual_before for a in answers],
                "kv_bytes": round(sum(a.kv_bytes for a in answers) / len(answers)),
                "kept": {str(i): answers[row].kept for row, i in examples},
            }


def answer_all(run: Run, settings: Sequence[Setting], progress: Progress) -> Iterator[dict[str, Any]]:
    """Answer all questions under each of the settings in this process; yields what `answer` yields."""
    total, done = run.n_batches * len(settings), itertools.count(1)
    for number in range(run.n_batches):
        for line in answer(run, number, settings):
            progress("answering", next(done), total)
            yield line


def changes(rows: Sequence[float]) -> list[list[float]]:
    """Return the rows entering each layer as [layer, rows] wherever their number changes."""
    return [[i, n] for i, n in enumerate(rows) if i == 0 or rows[i - 1] != n]
