# SPDX-License-Identifier: Apache-2.0
"""The requests on which a setting loses most, with both answers and pictures of the tokens that were kept."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.pictures import draw_kept
from tokenprune_evaluation.question_set import Item
from tokenprune_evaluation.settings import Setting, key

from .collecting import Line, Traffic

N_SHOWN = 12
SIDE = 200  # approximate length of the longer side of a picture, in pixels


@dataclass(frozen=True)
class Disagreement:
    """A question with its loss, both answers, and a PNG in base 64 of what was kept (empty: not drawn)."""

    item: Item
    loss: float
    unpruned: str
    pruned: str
    picture: str


def disagreements(traffic: Traffic, lines: Sequence[Line], setting: Setting) -> list[Disagreement]:
    """Return the questions with the highest losses under a setting; none if the journal is redacted."""
    rows: list[tuple[float, int, str, str]] = []
    for line in lines:
        if "answers" in line:
            numbers = [number for unit in line["units"] for number in unit]
            cell = key(setting)
            columns = (line["losses"][cell], numbers, line["unpruned"], line["answers"][cell])
            rows += [row for row in zip(*columns, strict=True) if row[0]]
    rows.sort(key=lambda row: (-row[0], row[1]))
    return [
        Disagreement(traffic.questions.items[number], loss, ours, theirs, _picture(traffic, setting, number))
        for loss, number, ours, theirs in rows[:N_SHOWN]
    ]


def _picture(traffic: Traffic, setting: Setting, number: int) -> str:
    """Draw what was kept for a question, by asking it again."""
    inputs = traffic.questions.inputs(traffic.processor, [number])
    with setting.applied(traffic.model, traffic.seed) as handle:
        answer_batch(traffic.model, traffic.processor, inputs, handle, setting, max_new_tokens=1)
        report = None if handle is None else handle.last
    if report is None:
        return ""
    (image,) = report.images
    picture = draw_kept(image, inputs, traffic.processor, SIDE)
    if picture is None:
        return ""
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
