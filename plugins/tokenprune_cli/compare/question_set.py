# SPDX-License-Identifier: Apache-2.0
"""The questions of a comparison: about the embedded scenes, or from a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenprune_embedded import Question, held_out_scenes

from tokenprune_cli.compare.shelf import Shelf
from tokenprune_cli.console.failures import BadInputError, first_line
from tokenprune_cli.console.images import UNREADABLE, as_rgb
from tokenprune_cli.evaluation.prompts import picture_token, tokenized
from tokenprune_cli.evaluation.question_file import DEFAULT_METRIC, QuestionFileError, read_questions

N_EXAMPLES = 6  # questions that the report shows pictures of


@dataclass(frozen=True)
class Item:
    """One question about picture number `image`; all `answers` count as right, judged by `metric`.

    `where` it stands: a file and a line.
    """

    image: int
    question: Question
    answers: tuple[str, ...]
    metric: str
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class QuestionSet:
    """Questions in order, and a function that opens picture i; `digest` changes whenever any of it does."""

    name: str
    items: tuple[Item, ...]
    open_image: Callable[[int], Image.Image]
    digest: str

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that occur, in order."""
        return tuple(dict.fromkeys(item.metric for item in self.items))

    @cached_property
    def families(self) -> dict[str, int]:
        """How many questions each family has, in the order in which they occur; empty without families."""
        return dict(Counter(item.question.family for item in self.items if item.question.family))

    @cached_property
    def n_images(self) -> int:
        """Pictures."""
        return len({item.image for item in self.items})

    @cached_property
    def examples(self) -> tuple[int, ...]:
        """Numbers of questions to show, whatever the answers: one of each family, each of another picture."""
        chosen: list[int] = []
        families: set[str] = set()
        for new_family in (True, False):
            for number, item in enumerate(self.items):
                is_new = item.question.family not in families if new_family else True
                if (
                    is_new
                    and len(chosen) < N_EXAMPLES
                    and item.image not in {self.items[i].image for i in chosen}
                ):
                    chosen.append(number)
                    families.add(item.question.family)
        return tuple(chosen)


def embedded_scenes(n: int) -> QuestionSet:
    """Questions about the first `n` held-out scenes."""
    scenes = list(held_out_scenes(n))
    items = [
        Item(i, question, (question.answer,), DEFAULT_METRIC)
        for i, (_, questions) in enumerate(scenes)
        for question in questions
    ]
    arrays = [np.asarray(scene.image) for scene, _ in scenes]
    digest = _digest(items, [array.tobytes() for array in arrays])
    return QuestionSet(f"{n} embedded scenes", tuple(items), lambda i: Image.fromarray(arrays[i]), digest)


def questions_from_file(path: Path, metric: str = DEFAULT_METRIC) -> QuestionSet:
    """Questions of a JSONL file.

    Raises
    ------
    QuestionFileError
        When a line cannot be used. (A picture that is damaged inside is a BadInputError once it is opened.)
    """
    asked = read_questions(path, metric)
    images = list(dict.fromkeys(question.image for question in asked))
    number = {image: i for i, image in enumerate(images)}
    items = [
        Item(number[q.image], Question(q.family, q.text, q.answers[0]), q.answers, q.metric, where)
        for q, where in ((q, f"{path}, line {q.line}") for q in asked)
    ]
    first = {item.image: item.where for item in reversed(items)}  # where a picture is named first

    def unreadable(i: int, error: Exception) -> str:
        return f"{first[i]}: the image '{images[i]}' cannot be read: {first_line(error)}"

    def open_image(i: int) -> Image.Image:
        try:
            with Image.open(images[i]) as image:
                return as_rgb(image)
        except UNREADABLE as error:
            raise BadInputError(unreadable(i, error)) from None

    def content(i: int) -> bytes:
        try:
            return images[i].read_bytes()
        except OSError as error:
            raise QuestionFileError(unreadable(i, error)) from None

    digest = _digest(items, map(content, range(len(images))))
    return QuestionSet(path.name, tuple(items), Shelf(open_image), digest)


def make_batch(processor: Any, questions: QuestionSet, items: Sequence[Item]) -> dict[str, Any]:
    """Make the model inputs of some of the questions; their pictures are not held."""
    images = [questions.open_image(item.image) for item in items]
    return tokenized(processor, images, [item.question.text for item in items])


def check_questions(processor: Any, questions: QuestionSet) -> None:
    """Refuse questions that a processor would look for a picture in.

    Raises
    ------
    BadInputError
        Names the file and the line.
    """
    for item in questions.items:
        token = picture_token(processor, item.question.text)
        if token is not None:
            raise BadInputError(
                f"{item.where}: the question holds {token!r}, which stands for a picture; leave it out, the "
                "picture is put before the question"
            )


def _digest(items: Sequence[Item], pictures: Iterable[bytes]) -> str:
    found = hashlib.sha256(repr([(i.image, i.question, i.answers, i.metric) for i in items]).encode())
    for picture in pictures:
        found.update(hashlib.sha256(picture).digest())
    return found.hexdigest()[:16]
