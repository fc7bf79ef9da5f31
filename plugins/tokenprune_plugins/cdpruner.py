# SPDX-License-Identifier: Apache-2.0
"""CDPruner: diversity conditioned on the question. Zhang et al., NeurIPS 2025, arXiv 2506.10967."""

from __future__ import annotations

import tokenprune


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method."""
    return [
        tokenprune.Method(
            name="cdpruner",
            title="CDPruner: diversity conditioned on the question",
            scorer="relevance",
            selector="dpp",
            scope="tile",
            newlines="drop",
            paper="arXiv 2506.10967 (NeurIPS 2025)",
            deviations=(
                "picks beyond the number of dimensions go by relevance; the official code gives NaN",
            ),
        )
    ]
