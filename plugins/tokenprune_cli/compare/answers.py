# SPDX-License-Identifier: Apache-2.0
"""Answering a batch of questions under many settings, the vision tower's work shared between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenprune
from tokenprune_cli.compare.pictures import picture_path, save_kept, save_seen
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.question_set import QuestionSet, make_batch
from tokenprune_cli.compare.tower import shared_tower
from tokenprune_cli.evaluation.answering import Answered, answer_batch
from tokenprune_cli.evaluation.settings import Setting

QUESTIONS = "questions"  # the track in which every question is asked on its own
Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much


@dataclass(frozen=True)
class Work:
    """How questions are answered: so many at once, up to so many new tokens, with this seed.

    Pictures of the example questions go to the folder `pictures`; None: none are drawn.
    """

    batch: int
    max_new_tokens: int
    seed: int
    pictures: Path | None = None


def n_batches(questions: QuestionSet, work: Work) -> int:
    """How many batches there are."""
    return -(-len(questions.items) // work.batch)


def answer(
    model: Any, processor: Any, questions: QuestionSet, work: Work, number: int, settings: Sequence[Setting]
) -> Iterator[dict[str, Any]]:
    """Answer batch `number` under each of some settings.

    Yields
    ------
    dict
        A line for the journal: `cell`, `batch` and `track`, and either `refused`, why the model cannot run
        under this setting, or `answers` with the rows that entered each layer (`rows`, as [layer, rows] where
        they change), of which `text` are the text's; visual tokens before pruning (`tokens`), the mean bytes
        of the cache, and the slots that were `kept` for each example question, by its number (None: all).
    """
    numbers = range(number * work.batch, min((number + 1) * work.batch, len(questions.items)))
    batch = make_batch(processor, questions, [questions.items[i] for i in numbers])
    with shared_tower(model):
        for setting in settings:
            head = {"cell": key(setting), "batch": number, "track": QUESTIONS}
            try:
                with setting.applied(model, work.seed) as handle:
                    answers = answer_batch(model, processor, batch, handle, setting, work.max_new_tokens)
                    report = None if handle is None else handle.last
            except tokenprune.TokenPruneError as error:
                yield {**head, "refused": str(error)}
                continue
            kept: dict[str, list[int] | None] = {}
            for row, i in enumerate(numbers):
                if i not in questions.examples:
                    continue
                answered = answers[row]
                kept[str(i)] = None if answered.kept is None else list(answered.kept)
                if work.pictures is None:
                    continue
                path = picture_path(work.pictures, key(setting), i)
                if report is not None:
                    image = next(image for image in report.images if image.row == row)
                    save_kept(path, image, batch, processor)
                else:
                    share = (answered.n_visual / answered.n_visual_before) ** 0.5
                    save_seen(path, questions.open_image(questions.items[i].image), share)
            yield {**head, **_line(answers), "kept": kept}


def answer_all(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    work: Work,
    settings: Sequence[Setting],
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """Answer all questions under each of some settings in this process; yields as `answer` does."""
    total, done = n_batches(questions, work) * len(settings), 0
    for number in range(n_batches(questions, work)):
        for line in answer(model, processor, questions, work, number, settings):
            done += 1
            progress("answering", done, total)
            yield line


def _line(answers: Sequence[Answered]) -> dict[str, Any]:
    return {
        "answers": [a.text for a in answers],
        "rows": [changes(a.rows) for a in answers],
        "text": [a.rows[-1] - a.n_visual for a in answers],
        "tokens": [a.n_visual_before for a in answers],
        "kv_bytes": round(sum(a.kv_bytes for a in answers) / len(answers)),
    }


def changes(rows: Sequence[float]) -> list[list[float]]:
    """Rows of each layer as [layer, rows] wherever they change."""
    return [[i, n] for i, n in enumerate(rows) if i == 0 or rows[i - 1] != n]
