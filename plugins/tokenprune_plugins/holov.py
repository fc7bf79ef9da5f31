# SPDX-License-Identifier: Apache-2.0
"""HoloV: the budget divided among parts of the image by CLS attention. NeurIPS 2025, arXiv 2510.02912."""

from __future__ import annotations

import tokenprune

from .attention import AttentionScorer
from .quota import QuotaSelector


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and its variant for towers without a CLS token."""
    in_common = (
        "what a run's quota exceeds its size by goes to other runs; the official code appends rows of zeros "
        "instead (official=True leaves these rows out)",
        "a run's weight is its mean attention: in the official score the variance of the cosines has no "
        "influence beyond rounding (official=True computes it), except that runs of one token weigh 1/1090",
        "kept tokens are in the order of the image; officially run by run, by attention",
    )
    return [
        tokenprune.Method(
            name="holov",
            title="HoloV: CLS attention, budget divided among runs",
            scorer="attention",
            selector="quota",
            scope="image",
            newlines="drop",
            paper="arXiv 2510.02912 (NeurIPS 2025)",
            deviations=in_common,
        ),
        tokenprune.Method(
            name="holov-received",
            variant_of="holov",
            title="HoloV without CLS: attention received, budget divided among runs",
            scorer=AttentionScorer(source="received"),
            selector=QuotaSelector(groups=None),
            scope="image",
            newlines="drop",
            paper="arXiv 2510.02912 (NeurIPS 2025)",
            deviations=(
                *in_common,
                "attention and rows are in the same order; officially, attention of Qwen2.5-VL is left in "
                "window order",
                "the image's last token competes like the others; the official span is off by one and always "
                "keeps it",
            ),
        ),
    ]
