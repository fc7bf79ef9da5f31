# SPDX-License-Identifier: Apache-2.0
"""The pictures of the demo: kept tokens with the question, the correct answer and the model's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import Setting, key
from tokenprune_visualize import captioned, kept_picture, sheet

from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.scoring import is_right

CELL = 13  # size of a patch in pixels
TEXT = 12  # size of the text


def columns(settings: Sequence[Setting]) -> dict[str, dict[str, Setting]]:
    """Return the columns of each picture: one picture for each method, and one for each budget.

    Pictures are named by their files, columns by their titles.
    """
    methods = dict.fromkeys(s.method for s in settings if s.method is not None)
    keeps = dict.fromkeys(s.keep for s in settings if s.keep is not None)
    by_method = {f"{name}.png": [s for s in settings if s.method in (None, name)] for name in methods}
    by_keep = {
        f"all-methods-{keep}-tokens.png": [s for s in settings if s.keep in (None, keep)] for keep in keeps
    }
    return {name: {s.label: s for s in shown} for name, shown in {**by_method, **by_keep}.items()}


def examples(questions: QuestionSet) -> list[int]:
    """Return the numbers of the example questions: the first of each family, about different pictures."""
    first: dict[str, int] = {}
    for number in questions.examples:
        first.setdefault(questions.items[number].question.family, number)
    return list(first.values())


def example_sheet(
    questions: QuestionSet, answers: Mapping[str, SettingAnswers], shown: Mapping[str, Setting]
) -> Image.Image:
    """Draw the kept tokens and the answers, with example questions in rows and settings in columns."""
    rows = []
    for number in examples(questions):
        item, row = questions.items[number], []
        for column, setting in enumerate(shown.values()):
            collected = answers[key(setting)]
            kept, answer = collected.kept[number], collected.answers[number]
            side = collected.tokens[number] ** 0.5
            picture = questions.open_image(item.image)
            if kept is None:  # nothing was dropped; a smaller picture is drawn as coarse as the model saw it
                share = ((collected.rows[number][-1][1] - collected.text[number]) ** 0.5) / side
                size = (round(picture.width * share), round(picture.height * share))
                picture = picture if share == 1 else picture.resize(size, Image.Resampling.BILINEAR)
            slots = None if kept is None else [slot for slot in kept if slot >= 0]
            drawn = kept_picture(picture, (round(side), round(side)), slots, CELL)
            lines = [f"{item.question.text} ({item.question.answer})"] if column == 0 else []
            verdict = "right" if is_right(item, answer) else "wrong"
            row.append(captioned(drawn, [*lines, f"answer: {answer} ({verdict})"], TEXT))
        rows.append(row)
    return sheet(rows, list(shown), TEXT)
