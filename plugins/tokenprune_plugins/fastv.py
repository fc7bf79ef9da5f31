# SPDX-License-Identifier: Apache-2.0
"""FastV: keep what the prompt's last token attends to after two layers.

Chen et al., ECCV 2024, arXiv 2403.06764.
"""

from __future__ import annotations

import tokenprune

from .attention import AttentionScorer


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: one cut before layer 2 by the attention of layer 1, original positions."""
    return [
        tokenprune.Method(
            name="fastv",
            title="FastV: attention of the last prompt token in layer 1",
            scorer=AttentionScorer(source="text"),
            selector="topk",
            stage="decoder",
            schedule=tokenprune.GeometricSchedule(layers=(2,)),
            positions="original",
            scope="image",
            newlines="compete",
            paper="arXiv 2403.06764 (ECCV 2024)",
            deviations=(
                "the span of the image is found from its tokens; the official branches hard-code it",
                "tokens are chosen once, in prefill, as the official HF branch does",
            ),
        )
    ]
