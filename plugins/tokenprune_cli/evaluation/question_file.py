# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures from a local file: one JSON object a line, with image, question and answer(s)."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune_cli.console.failures import BadInputError
from tokenprune_cli.console.images import UNREADABLE
from tokenprune_cli.evaluation.metrics import NAMES, NO, YES
from tokenprune_cli.evaluation.prompts import unusable_character

DEFAULT_METRIC = "exact_match"
FIELDS = ("image", "question", "answer", "answers", "metric", "family")
SHOWN = 200  # characters of a value or a file name in a message


class QuestionFileError(BadInputError, ValueError):
    """A line of a question file cannot be used; the message says which one and why."""


@dataclass(frozen=True)
class FileQuestion:
    """A question about a picture: every answer counts as right (VQA: one a person), judged by `metric`.

    `family` is the kind of question, if the file says; `line` is its line in the file, counted from 1.
    """

    image: Path
    text: str
    answers: tuple[str, ...]
    metric: str = DEFAULT_METRIC
    family: str = ""
    line: int = field(default=0, compare=False)


def read_questions(path: Path, metric: str = DEFAULT_METRIC) -> list[FileQuestion]:
    """Read a file whole, so that a bad line is found before any model runs; empty lines do not count.

    A line ends with a line feed, after a carriage return or not, and with nothing else. Images are looked
    for beside the file unless their paths are absolute.

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
        whole = path.read_bytes()
    except (OSError, ValueError) as error:
        raise QuestionFileError(f"the question file '{path}' cannot be read: {error}") from None
    lines = whole.removeprefix(codecs.BOM_UTF8).split(b"\n")  # the mark is Windows'
    questions = list(_questions(path, lines, metric))
    if not questions:
        raise QuestionFileError(f"the question file '{path}' holds no question")
    return questions


def _questions(path: Path, lines: list[bytes], metric: str) -> Iterator[FileQuestion]:
    seen: set[Path] = set()  # images that are known to be there
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8")
            if text.strip():
                yield replace(_question(text, path.parent, metric, seen), line=number)
        except QuestionFileError as error:
            raise QuestionFileError(f"{path}, line {number}: {error}") from None
        except UnicodeDecodeError as error:
            at = f"{error.reason} at byte {error.start + 1}"
            raise QuestionFileError(f"{path}, line {number}: cannot be read as UTF-8: {at}") from None
        except RecursionError:
            raise QuestionFileError(f"{path}, line {number}: lists or objects nested too deep") from None


def _question(line: str, folder: Path, default_metric: str, seen: set[Path]) -> FileQuestion:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionFileError(f"no valid JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError:  # Python's limit, which guards against the time it would take
        raise QuestionFileError("a number has more digits than are read") from None
    if not isinstance(given, dict):
        raise QuestionFileError(f"a question is a JSON object, not {type(given).__name__}")
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise QuestionFileError(f"unknown field {_shown(repr(unknown[0]))}; there are {', '.join(FIELDS)}")
    metric = _known_metric(given.get("metric", default_metric))
    answers = _answers(given)
    if metric == "yes_no_f1" and (len(answers) > 1 or answers[0] not in (YES, NO)):
        raise QuestionFileError(
            f"yes_no_f1 takes one answer, '{YES}' or '{NO}', not {_shown(str(list(answers)))}"
        )
    image = folder / _text(given, "image")
    if image not in seen:
        _check_image(image)
        seen.add(image)
    family = _text(given, "family") if "family" in given else ""
    return FileQuestion(image, _text(given, "question"), answers, metric, family)


def _known_metric(name: Any) -> str:
    if name not in NAMES:
        raise QuestionFileError(f"unknown metric {_shown(repr(name))}; there are {', '.join(NAMES)}")
    return str(name)


def _check_image(path: Path) -> None:
    """Refuse what is no image, by its first bytes; nothing is decoded."""
    if os.path.isdir(path):
        raise QuestionFileError(f"'{path}' is a directory; 'image' names one picture")
    if not os.path.isfile(path):  # unlike Path's takes a name of any length
        raise QuestionFileError(f"there is no image '{_shown(str(path))}'")
    try:
        with Image.open(path):
            pass
    except UNREADABLE:
        raise QuestionFileError(f"'{path}' is not an image that can be read") from None


def _answers(given: dict[str, Any]) -> tuple[str, ...]:
    if ("answer" in given) == ("answers" in given):
        raise QuestionFileError("give either 'answer', a text, or 'answers', a list of texts")
    if "answer" in given:
        return (_text(given, "answer"),)
    answers = given["answers"]
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a for a in answers):
        raise QuestionFileError("'answers' must be a list of texts, at least one")
    for answer in answers:
        _check_characters("answers", answer)
    return tuple(answers)


def _text(given: dict[str, Any], field: str) -> str:
    if field not in given:
        raise QuestionFileError(f"the field {field!r} is missing")
    value = given[field]
    if not isinstance(value, str) or not value.strip():
        raise QuestionFileError(
            f"{field!r} must be a text that is not empty, not {_shown(json.dumps(value))}"
        )
    _check_characters(field, value)
    return value


def _check_characters(field: str, text: str) -> None:
    bad = unusable_character(text)
    if bad is not None:
        raise QuestionFileError(f"{field!r} holds {bad!r}, which is no character; leave it out")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 2 :]}"
