# SPDX-License-Identifier: Apache-2.0
"""PriorTR: one cut by what the question adds to the attention of a token before it.

ECCV 2026, arXiv 2606.24156.
"""

from __future__ import annotations

import tokenprune


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: one cut before layer 3, original positions."""
    return [
        tokenprune.Method(
            name="priortr",
            title="PriorTR: attention of the question, relative to a token before it",
            scorer="prior",
            selector="topk",
            stage="decoder",
            schedule=tokenprune.GeometricSchedule(layers=(3,)),
            positions="original",
            trim_early_cache=True,
            scope="image",
            newlines="compete",
            paper="arXiv 2606.24156 (ECCV 2026)",
            deviations=(
                "without a question after the image, tokens are ranked by the attention of the prompt's last "
                "row; the official code gives all of them the score 0",
                "the question is the text after the image, in its own prompt: no other image, no answer",
                "scores stay in float32; the official code rounds them to the model's precision",
                "the layer is rescaled to models of another depth; the official code cuts before layer 3",
            ),
        )
    ]
