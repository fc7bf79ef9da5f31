# SPDX-License-Identifier: Apache-2.0
"""ZOO-Prune's sensitivity without min-max: scores keep their proportions, and kept tokens their positions."""

from __future__ import annotations

import tokenprune

from .diverse import DiverseSelector


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: zoo-exact's scores, divided by their maximum, times max-min distance."""
    return [
        tokenprune.Method(
            name="zoo-max",
            title="ZOO-Prune's sensitivity divided by its maximum, at original positions",
            scorer="zoo-exact",
            selector=DiverseSelector(normalise="max"),
            positions="original",
            scope="tile",
            newlines="drop",
            paper="this project",
        )
    ]
