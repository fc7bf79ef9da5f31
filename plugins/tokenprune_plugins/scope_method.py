# SPDX-License-Identifier: Apache-2.0
"""SCOPE: coverage of the image's tokens times CLS attention. arXiv 2510.24214, NeurIPS 2025."""

from __future__ import annotations

import tokenprune

from .attention import AttentionScorer
from .coverage import CoverageSelector


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and its variant for towers without a CLS token."""
    deviations = (
        "a budget that the number of tiles does not divide gives one more token to each of the first tiles; "
        "the official code keeps fewer tokens",
        "cosines in float32; the official code computes them in the model's precision",
        "a row of zeros has cosine 0 to every row; the official code gives NaN",
    )
    return [
        tokenprune.Method(
            name="scope",
            title="SCOPE: coverage times CLS attention",
            scorer="attention",
            selector=CoverageSelector(space="pre_features"),
            scope="split",
            newlines="drop",
            paper="arXiv 2510.24214 (NeurIPS 2025)",
            deviations=deviations,
        ),
        tokenprune.Method(
            name="scope-received",
            variant_of="scope",
            title="SCOPE without CLS: coverage times attention received",
            scorer=AttentionScorer(source="received"),
            selector=CoverageSelector(space="pre_features"),
            scope="split",
            newlines="drop",
            paper="arXiv 2510.24214 (NeurIPS 2025)",
            deviations=(
                *deviations,
                "ours: the official code does not support towers without a CLS token",
            ),
        ),
    ]
