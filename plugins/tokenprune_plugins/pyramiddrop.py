# SPDX-License-Identifier: Apache-2.0
"""PyramidDrop: FastV's rule, applied in three steps. Xing et al., CVPR 2025, arXiv 2410.17247."""

from __future__ import annotations

import tokenprune

from .attention import AttentionScorer


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: each of the cuts before layers 8, 16 and 24 of 32 keeps the same ratio."""
    return [
        tokenprune.Method(
            name="pyramiddrop",
            title="PyramidDrop: attention of the last prompt token, in three steps",
            scorer=AttentionScorer(source="text", offset=0),
            selector="topk",
            stage="decoder",
            schedule=tokenprune.GeometricSchedule(layers=(8, 16, 24)),
            positions="contiguous",
            scope="image",
            newlines="compete",
            paper="arXiv 2410.17247 (CVPR 2025)",
            deviations=(
                "the ratio of each step follows from the budget, (keep / N)^(1/3); the paper fixes it at 1/2",
            ),
        )
    ]
