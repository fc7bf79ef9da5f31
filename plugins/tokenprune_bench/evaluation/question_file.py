# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures from a local file: one JSON object a line, with image, question and answer(s)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune_bench.evaluation.metrics import NAMES, NO, YES

DEFAULT_METRIC = "exact_match"
FIELDS = ("image", "question", "answer", "answers", "metric")


class QuestionFileError(ValueError):
    """A line of a question file cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class FileQuestion:
    """A question about a picture: every answer counts as right (VQA: one a person), judged by `metric`.

    It stands in this line of its file, counted from 1.
    """

    image: Path
    text: str
    answers: tuple[str, ...]
    metric: str = DEFAULT_METRIC
    line: int = field(default=0, compare=False)


def read_questions(path: Path, metric: str = DEFAULT_METRIC) -> list[FileQuestion]:
    """Read a file whole, so that a bad line is found before any model runs; empty lines do not count.

    Images are looked for beside the file unless their paths are absolute.

    Parameters
    ----------
    path
        The file.
    metric
        Of the lines that name none.

    Raises
    ------
    QuestionFileError
        When the file cannot be read, holds no question, or a line cannot be used.
    """
    _known_metric(metric)
    try:
        text = path.read_text(encoding="utf-8-sig")  # as Windows writes it, too
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionFileError(f"the question file '{path}' cannot be read: {error}") from None
    questions = list(_questions(path, text.splitlines(), metric))
    if not questions:
        raise QuestionFileError(f"the question file '{path}' holds no question")
    return questions


def _questions(path: Path, lines: list[str], metric: str) -> Iterator[FileQuestion]:
    seen: set[Path] = set()  # images that are known to be there
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield replace(_question(line, path.parent, metric, seen), line=number)
            except QuestionFileError as error:
                raise QuestionFileError(f"{path}, line {number}: {error}") from None


def _question(line: str, folder: Path, default_metric: str, seen: set[Path]) -> FileQuestion:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionFileError(f"no valid JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(given, dict):
        raise QuestionFileError(f"a question is a JSON object, not {type(given).__name__}")
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise QuestionFileError(f"unknown field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    metric = _known_metric(given.get("metric", default_metric))
    answers = _answers(given)
    if metric == "yes_no_f1" and (len(answers) > 1 or answers[0] not in (YES, NO)):
        raise QuestionFileError(f"yes_no_f1 takes one answer, '{YES}' or '{NO}', not {list(answers)}")
    image = folder / _text(given, "image")
    if image not in seen:
        _check_image(image)
        seen.add(image)
    return FileQuestion(image, _text(given, "question"), answers, metric)


def _known_metric(name: Any) -> str:
    if name not in NAMES:
        raise QuestionFileError(f"unknown metric {name!r}; there are {', '.join(NAMES)}")
    return str(name)


def _check_image(path: Path) -> None:
    """Refuse what is no image, by its first bytes; nothing is decoded."""
    if not path.is_file():
        raise QuestionFileError(f"there is no image '{path}'")
    try:
        with Image.open(path):
            pass
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise QuestionFileError(f"'{path}' is not an image that can be read") from None


def _answers(given: dict[str, Any]) -> tuple[str, ...]:
    if ("answer" in given) == ("answers" in given):
        raise QuestionFileError("give either 'answer', a text, or 'answers', a list of texts")
    if "answer" in given:
        return (_text(given, "answer"),)
    answers = given["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
        raise QuestionFileError("'answers' must be a list of texts, at least one")
    return tuple(answers)


def _text(given: dict[str, Any], field: str) -> str:
    if field not in given:
        raise QuestionFileError(f"the field {field!r} is missing")
    value = given[field]
    if not isinstance(value, str) or not value.strip():
        raise QuestionFileError(f"{field!r} must be a text that is not empty, not {json.dumps(value)}")
    return value
