# SPDX-License-Identifier: Apache-2.0
"""Diversity inside the vision tower, which a quarter of the tokens or more leave, then at the projector."""

from __future__ import annotations

import tokenprune


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: max-min cosine distance of hidden rows, then of rows entering the language model."""
    rest = tokenprune.Method(name="tower-diverse", selector="diverse", scope="tile", newlines="drop")
    return [
        tokenprune.Method(
            name="tower-diverse",
            title="Diversity inside the vision tower, then before the language model",
            scorer="uniform",
            selector="diverse",
            stage="vision",
            schedule=tokenprune.GeometricSchedule((1,), depth=3),
            scope="tile",
            newlines="drop",
            paper="this project",
            then=rest,
            at_least=0.25,
        )
    ]
