# SPDX-License-Identifier: Apache-2.0
"""OTPrune: the tokens of largest log-determinant. arXiv 2602.20205, CVPR 2026."""

from __future__ import annotations

import tokenprune


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: no scores, greedy log-determinant of the rows entering the language model."""
    return [
        tokenprune.Method(
            name="otprune",
            title="OTPrune: greedy log-determinant",
            scorer="uniform",
            selector="logdet",
            scope="image",
            newlines="compete",
            paper="arXiv 2602.20205 (CVPR 2026)",
            deviations=(
                "kept tokens in the order of the image; the official code passes them in the order of a "
                "Python set",
                "a feature that is zero in all tokens counts as zero; the official code gives NaN",
                "column norms and Cholesky factor in float32 and float64; the official code computes them in "
                "the model's precision",
            ),
        )
    ]
