# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: what each method kept, beside the question, the right answer and the model's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from tokenprune_visualize import captioned, kept_picture, sheet

from tokenprune_cli.demo.outcomes import Outcome
from tokenprune_cli.embedded import FAMILIES, Question, Scene
from tokenprune_cli.evaluation import Answered

CELL = 13  # pixels a patch in the pictures
TEXT = 12


def examples(scenes: Sequence[tuple[Scene, Sequence[Question]]]) -> list[tuple[int, Question]]:
    """One question of each family, each about another scene: the first there is, whatever the answers."""
    chosen: list[tuple[int, Question]] = []
    for family in FAMILIES:
        taken = {scene for scene, _ in chosen}
        found = (
            (number, question)
            for number, (_, questions) in enumerate(scenes)
            if number not in taken
            for question in questions
            if question.family == family
        )
        chosen += [pair for pair in [next(found, None)] if pair is not None]
    return chosen


def example_sheet(
    scenes: Sequence[tuple[Scene, Sequence[Question]]], outcomes: Sequence[Outcome], titles: Sequence[str]
) -> Image.Image:
    """Rows: example questions. Columns: the outcomes, each with what it kept and what the model answered."""
    rows = []
    for number, question in examples(scenes):
        row = []
        for column, outcome in enumerate(outcomes):
            answered = next(a for a in outcome.answers if (a.scene, a.question) == (number, question))
            side = round(answered.n_visual_before**0.5)
            slots = None if answered.kept is None else [slot for slot in answered.kept if slot >= 0]
            picture = kept_picture(_as_seen(scenes[number][0].image, answered), (side, side), slots, CELL)
            verdict = "right" if answered.is_right else "wrong"
            lines = [f"{question.text} ({question.answer})"] if column == 0 else []
            row.append(captioned(picture, [*lines, f"answer: {answered.text} ({verdict})"], TEXT))
        rows.append(row)
    return sheet(rows, titles, TEXT)


def _as_seen(image: np.ndarray, answered: Answered) -> Image.Image:
    """Make the picture coarser where the model saw a smaller one: fewer tokens, and none of them dropped."""
    whole = Image.fromarray(np.asarray(image))
    if answered.kept is not None or answered.n_visual == answered.n_visual_before:
        return whole
    share = (answered.n_visual / answered.n_visual_before) ** 0.5
    return whole.resize((round(whole.width * share), round(whole.height * share)), Image.Resampling.BILINEAR)


def method_sheet(
    scenes: Sequence[tuple[Scene, Sequence[Question]]], outcomes: Sequence[Outcome], method: str
) -> Image.Image:
    """Draw one method at all its budgets, beside the unpruned model."""
    shown = [o for o in outcomes if o.setting.method in (None, method)]
    titles = [f"{method}, {o.setting.keep} tokens" if o.setting.keep else "unpruned" for o in shown]
    return example_sheet(scenes, shown, titles)


def budget_sheet(
    scenes: Sequence[tuple[Scene, Sequence[Question]]], outcomes: Sequence[Outcome], keep: int
) -> Image.Image:
    """All methods at one budget, beside the unpruned model."""
    shown = [o for o in outcomes if o.setting.keep in (None, keep)]
    titles = [o.setting.label for o in shown]
    return example_sheet(scenes, shown, titles)
