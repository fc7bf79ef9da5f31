# SPDX-License-Identifier: Apache-2.0
"""The colour and marker of each method, the same in all plots of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.plot_colors import BASELINE_MARKERS, COLORS, GREYS, MARKERS

from tokenprune_cli.compare.plan import ALWAYS


@dataclass(frozen=True)
class Look:
    """How a method is drawn; hollow markers are those of methods that saw the question."""

    color: str
    marker: str
    linestyle: str = "-"
    is_hollow: bool = False


def looks(models: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Return the look of every method of a page, in the order in which the models' records name them."""
    saw = {(line["method"], line["saw_the_question"]) for model in models for line in model["lines"]}
    methods = dict.fromkeys(line["method"] for model in models for line in model["lines"])
    names = [method for method in methods if method is not None]
    drawn = {}
    for i, name in enumerate(name for name in names if name not in ALWAYS):
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        drawn[name] = Look(color, marker, is_hollow=(name, True) in saw)
    for i, name in enumerate(name for name in names if name in ALWAYS):
        drawn[name] = Look(GREYS[i % len(GREYS)], BASELINE_MARKERS[i % len(BASELINE_MARKERS)], "--")
    return drawn
