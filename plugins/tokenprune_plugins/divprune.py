# SPDX-License-Identifier: Apache-2.0
"""DivPrune: select by diversity alone. Alvar et al., CVPR 2025, arXiv 2503.02175."""

from __future__ import annotations

import tokenprune


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: no scores, max-min cosine distance of the rows entering the language model."""
    return [
        tokenprune.Method(
            name="divprune",
            title="DivPrune: max-min diversity",
            scorer="uniform",
            selector="diverse",
            scope="image",
            newlines="compete",
            paper="arXiv 2503.02175 (CVPR 2025)",
            deviations=(
                "a chosen token is never chosen again; the official code can pick exact duplicates twice",
                "distances in float32; the official code computes them in the model's precision",
            ),
        )
    ]
