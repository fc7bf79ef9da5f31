# SPDX-License-Identifier: Apache-2.0
"""Models of known size, with random weights because speed does not depend on them; and what to measure."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune_evaluation.records import read
from tokenprune_evaluation.tower_cut import TowerCut


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    `text_tokens` surround the image, a little over half of them before it. `side` is the height of the image
    in visual tokens, for models that accept any size, and its width unless `width` is given. The time per
    token is an average of `decode_steps`. `end_to_end_repeats` may be fewer than `repeats`, because answers
    take long. Each of the `tower_cuts` is measured at all budgets that it leaves enough tokens for.
    """

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    batches: tuple[int, ...]
    new_tokens: tuple[int, ...]
    text_tokens: int
    side: int
    repeats: int
    end_to_end_repeats: int
    decode_steps: int
    width: int | None = None
    tower_cuts: tuple[TowerCut, ...] = ()

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of the image in visual tokens, for models that accept any size."""
        return self.side, self.width or self.side

    def rounds(self, batch: int) -> int:
        """Return how often each contender is timed: `repeats`, or twice that below the largest batch size."""
        return self.repeats * (1 if batch == max(self.batches) else 2)


@dataclass(frozen=True)
class Preset:
    """A model, by the arguments of its configuration, and what is measured by default."""

    name: str
    about: str
    sizes: dict[str, Any]
    amount: Amount

    def config(self) -> Any:
        """Make the configuration."""
        from transformers import AutoConfig

        return AutoConfig.for_model(**copy.deepcopy(self.sizes))  # it keeps the dictionaries


PRESETS = {
    preset.name: preset for preset in read(tuple[Preset, ...], Path(__file__).with_name("presets.json"))
}
