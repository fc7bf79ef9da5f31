# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: what each method kept, beside the question, the right answer and the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from tokenprune_visualize import captioned, kept_picture, sheet

from tokenprune_cli.compare.collected import Collected
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.scoring import is_right
from tokenprune_cli.evaluation.settings import Setting

CELL = 13  # pixels a patch in the pictures
TEXT = 12


def columns(settings: Sequence[Setting]) -> dict[str, dict[str, Setting]]:
    """Return, by the name of each picture, its columns by their titles: a picture a method, one a budget."""
    methods = dict.fromkeys(s.method for s in settings if s.method is not None)
    keeps = dict.fromkeys(s.keep for s in settings if s.keep is not None)
    by_method = {f"{name}.png": [s for s in settings if s.method in (None, name)] for name in methods}
    by_keep = {
        f"all-methods-{keep}-tokens.png": [s for s in settings if s.keep in (None, keep)] for keep in keeps
    }
    return {name: {s.label: s for s in shown} for name, shown in {**by_method, **by_keep}.items()}


def examples(questions: QuestionSet) -> list[int]:
    """Return numbers of the example questions: the first of each family, each about another picture."""
    first: dict[str, int] = {}
    for number in questions.examples:
        first.setdefault(questions.items[number].question.family, number)
    return list(first.values())


def example_sheet(
    questions: QuestionSet, found: Mapping[str, Collected], shown: Mapping[str, Setting]
) -> Image.Image:
    """Draw example questions in rows and settings in columns, with what was kept and answered."""
    rows = []
    for number in examples(questions):
        item, row = questions.items[number], []
        for column, setting in enumerate(shown.values()):
            answers = found[key(setting)]
            kept, answer, side = answers.kept[number], answers.answers[number], answers.tokens[number] ** 0.5
            picture = questions.open_image(item.image)
            if kept is None:  # as coarse as the model saw it: fewer tokens, and none of them dropped
                share = ((answers.rows[number][-1][1] - answers.text[number]) ** 0.5) / side
                size = (round(picture.width * share), round(picture.height * share))
                picture = picture if share == 1 else picture.resize(size, Image.Resampling.BILINEAR)
            slots = None if kept is None else [slot for slot in kept if slot >= 0]
            drawn = kept_picture(picture, (round(side), round(side)), slots, CELL)
            lines = [f"{item.question.text} ({item.question.answer})"] if column == 0 else []
            verdict = "right" if is_right(item, answer) else "wrong"
            row.append(captioned(drawn, [*lines, f"answer: {answer} ({verdict})"], TEXT))
        rows.append(row)
    return sheet(rows, list(shown), TEXT)
