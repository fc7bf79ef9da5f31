# SPDX-License-Identifier: Apache-2.0
"""A cut inside the vision tower, as benchmarks take it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TowerCut:
    """A cut by `method` to `keep` tokens before block `layer` of the vision tower.

    For a smaller budget, the same method then cuts the tokens left before the language model.
    """

    method: str
    layer: int
    keep: int
