# SPDX-License-Identifier: Apache-2.0
"""The colour and marker of each method, the same in all plots of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_cli.compare.plan import ALWAYS

COLORS = (
    "#4269d0", "#c98a00", "#d6453d", "#2f9e8f", "#3c8f4a", "#d3609b", "#8a56c9", "#5f8fc7", "#8c5b2e",
    "#c2410c", "#0f766e", "#a21caf", "#65820f", "#334155", "#b45309", "#be123c",
)  # fmt: skip
MARKERS = "os^vDPX"  # 7 of them and 16 colours: 112 methods before a pair returns
GREYS = ("#555555", "#8a8a8a", "#b0b0b0")  # of baselines
BASELINE_MARKERS = "<>h"


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
