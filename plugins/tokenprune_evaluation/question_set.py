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
from cachetools import LRUCache, cached
from PIL import Image
from tokenprune_adapters.loading import first_line
from tokenprune_embedded import Question, held_out_scenes

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.images import UNREADABLE, as_rgb
from tokenprune_evaluation.prompts import picture_token, tokenized
from tokenprune_evaluation.question_file import DEFAULT_METRIC, QuestionFileError, read_questions

N_EXAMPLES = 6  # questions whose pictures the report shows
CACHED_BYTES = 2**26  # of pixels; a batch of ordinary photographs


@dataclass(frozen=True)
class Item:
    """A question about picture number `image`; each of the `answers` is right, as judged by `metric`.

    `where` names the file and the line of the question.
    """

    image: int
    question: Question
    answers: tuple[str, ...]
    metric: str
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class QuestionSet:
    """Questions in order, a function that opens picture i, and a digest of questions and pictures."""

    name: str
    items: tuple[Item, ...]
    open_image: Callable[[int], Image.Image]
    digest: str

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Metrics in the order of their first question."""
        return tuple(dict.fromkeys(item.metric for item in self.items))

    @cached_property
    def families(self) -> dict[str, int]:
        """Number of questions by family, in the order of their first question; empty without families."""
        return dict(Counter(item.question.family for item in self.items if item.question.family))

    @cached_property
    def n_images(self) -> int:
        """Number of pictures."""
        return len({item.image for item in self.items})

    @cached_property
    def examples(self) -> tuple[int, ...]:
        """Numbers of the questions to show, at most one of a picture: of each family first, then others."""
        chosen: dict[int, int] = {}  # number of a question by its picture
        families: set[str] = set()
        for new_families in (True, False):
            for number, item in enumerate(self.items):
                if len(chosen) == N_EXAMPLES or item.image in chosen:
                    continue
                if not new_families or item.question.family not in families:
                    chosen[item.image] = number
                    families.add(item.question.family)
        return tuple(chosen.values())

    def inputs(self, processor: Any, numbers: Iterable[int]) -> dict[str, Any]:
        """Return the model inputs of some of the questions, by their numbers; keeps no pictures."""
        items = [self.items[number] for number in numbers]
        images = [self.open_image(item.image) for item in items]
        return tokenized(processor, images, [item.question.text for item in items])


def embedded_scenes(n: int) -> QuestionSet:
    """Return the questions about the first `n` held-out scenes."""
    scenes = list(held_out_scenes(n))
    items = [
        Item(i, question, (question.answer,), DEFAULT_METRIC)
        for i, (_, questions) in enumerate(scenes)
        for question in questions
    ]
    arrays = [np.asarray(scene.image) for scene, _ in scenes]
    digest = _digest(items, [array.tobytes() for array in arrays])
    return QuestionSet(f"{n} embedded scenes", tuple(items), lambda i: Image.fromarray(arrays[i]), digest)


def questions_from_file(path: Path, metric: str = DEFAULT_METRIC, needs_answers: bool = True) -> QuestionSet:
    """Return the questions of a JSONL file; pictures are opened when they are needed.

    Lines without right answers are refused, unless `needs_answers` is False.

    Raises
    ------
    QuestionFileError
        When a line cannot be used. (A picture that is damaged inside is a BadInputError when it is opened.)
    """
    lines = read_questions(path, metric, needs_answers)
    images = list(dict.fromkeys(line.image for line in lines))
    number = {image: i for i, image in enumerate(images)}
    items = [
        Item(
            number[line.image],
            Question(line.family, line.text, line.answers[0] if line.answers else ""),
            line.answers,
            line.metric,
            f"{path}, line {line.line}",
        )
        for line in lines
    ]
    first = {item.image: item.where for item in reversed(items)}  # where a picture is first named

    def unreadable(i: int, error: Exception) -> str:
        return f"{first[i]}: the image '{images[i]}' cannot be read: {first_line(error)}"

    @cached(LRUCache[Any, Image.Image](CACHED_BYTES, getsizeof=lambda image: 3 * image.width * image.height))
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

    return QuestionSet(path.name, tuple(items), open_image, _digest(items, map(content, range(len(images)))))


def check_questions(processor: Any, questions: QuestionSet) -> None:
    """Refuse questions with a token that stands for a picture in the processor's prompts.

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
    digest = hashlib.sha256(repr([(i.image, i.question, i.answers, i.metric) for i in items]).encode())
    for picture in pictures:
        digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()[:16]
