# SPDX-License-Identifier: Apache-2.0
"""Read questions about images from a local file of JSON lines with image, question and answer(s)."""

from __future__ import annotations

import codecs
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.images import UNREADABLE
from tokenprune_evaluation.metrics import NAMES, NO, YES
from tokenprune_evaluation.prompts import unusable_character

DEFAULT_METRIC = "exact_match"
FIELDS = ("image", "question", "answer", "answers", "metric", "family")
MAX_SHOWN = 200  # characters of a value or a file name in a message


class QuestionFileError(BadInputError, ValueError):
    """A line of a question file is invalid; the message says which line and why."""


@dataclass(frozen=True)
class FileQuestion:
    """A question about an image. Each of the answers is right (with VQA, one per person), judged by `metric`.

    `family` is the kind of question, if the file has one; `line` is the line in the file, counted from 1.
    """

    image: Path
    text: str
    answers: tuple[str, ...]
    metric: str = DEFAULT_METRIC
    family: str = ""
    line: int = field(default=0, compare=False)


def read_questions(
    path: Path, metric: str = DEFAULT_METRIC, needs_answers: bool = True
) -> list[FileQuestion]:
    """Read and validate a question file, before any model runs; empty lines are skipped.

    A line ends with a line feed, or a carriage return and a line feed, and with no other character. The paths
    of images are absolute or relative to the file.

    Parameters
    ----------
    path
        The file.
    metric
        The metric of lines that name none.
    needs_answers
        Whether a line without right answers is refused.

    Raises
    ------
    QuestionFileError
        If the file cannot be read or contains no questions, or a line is invalid.
    """
    _known_metric(metric)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise QuestionFileError(f"the question file '{path}' cannot be read: {error}") from None
    questions: list[FileQuestion] = []
    existing_images: set[Path] = set()
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        try:
            text = line.decode("utf-8")
            if text.strip():
                question = _question(text, path.parent, metric, existing_images, needs_answers)
                questions.append(replace(question, line=number))
            continue
        except QuestionFileError as error:
            reason = str(error)
        except UnicodeDecodeError as error:
            reason = f"cannot be read as UTF-8: {error.reason} at byte {error.start + 1}"
        except RecursionError:
            reason = "lists or objects are nested too deeply"
        raise QuestionFileError(f"{path}, line {number}: {reason}")
    if not questions:
        raise QuestionFileError(f"the question file '{path}' contains no questions")
    return questions


def _question(
    line: str, folder: Path, default_metric: str, existing_images: set[Path], needs_answers: bool
) -> FileQuestion:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionFileError(f"invalid JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError:  # Python limits the number of digits, because of the time that conversion takes
        raise QuestionFileError("a number has too many digits") from None
    if not isinstance(values, dict):
        raise QuestionFileError(f"a question is a JSON object, not {type(values).__name__}")
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise QuestionFileError(f"unknown field {_shown(repr(unknown[0]))}; fields: {', '.join(FIELDS)}")
    metric = _known_metric(values.get("metric", default_metric))
    answers = _answers(values) if needs_answers or {"answer", "answers"} & set(values) else ()
    if answers and metric == "yes_no_f1" and (len(answers) > 1 or answers[0] not in (YES, NO)):
        raise QuestionFileError(
            f"yes_no_f1 takes one answer, '{YES}' or '{NO}', not {_shown(str(list(answers)))}"
        )
    image = folder / _string(values, "image")
    if image not in existing_images:
        _check_image(image)
        existing_images.add(image)
    family = _string(values, "family") if "family" in values else ""
    return FileQuestion(image, _string(values, "question"), answers, metric, family)


def _known_metric(name: Any) -> str:
    if name not in NAMES:
        raise QuestionFileError(f"unknown metric {_shown(repr(name))}; metrics: {', '.join(NAMES)}")
    return str(name)


def _check_image(path: Path) -> None:
    """Raise an error if a file is not an image; only its first bytes are read."""
    if os.path.isdir(path):
        raise QuestionFileError(f"'{path}' is a directory; 'image' is the path of an image")
    if not os.path.isfile(path):  # unlike Path.is_file, this accepts names of any length
        raise QuestionFileError(f"there is no image '{_shown(str(path))}'")
    try:
        with Image.open(path):
            pass
    except UNREADABLE:
        raise QuestionFileError(f"'{path}' is not an image that can be read") from None


def _answers(values: dict[str, Any]) -> tuple[str, ...]:
    if ("answer" in values) == ("answers" in values):
        raise QuestionFileError("give either 'answer', a string, or 'answers', a list of strings")
    if "answer" in values:
        return (_string(values, "answer"),)
    answers = values["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
        raise QuestionFileError("'answers' must be a non-empty list of non-empty strings")
    for answer in answers:
        _check_characters("answers", answer)
    return tuple(answers)


def _string(values: dict[str, Any], field: str) -> str:
    if field not in values:
        raise QuestionFileError(f"the field {field!r} is missing")
    value = values[field]
    if not isinstance(value, str) or not value.strip():
        raise QuestionFileError(f"{field!r} must be a non-empty string, not {_shown(json.dumps(value))}")
    _check_characters(field, value)
    return value


def _check_characters(field: str, text: str) -> None:
    character = unusable_character(text)
    if character is not None:
        raise QuestionFileError(f"{field!r} contains {character!r}, which is not allowed; remove it")


def _shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}...{text[-MAX_SHOWN // 2 :]}"
