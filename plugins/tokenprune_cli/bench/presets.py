# SPDX-License-Identifier: Apache-2.0
"""Models of known sizes with random weights, on which speed does not depend; and what to measure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune_cli.records import read


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    `text_tokens` stand around the picture, a little over half of them before it. `side` is the picture's side
    in visual tokens, for models that take any. `decode_steps` are averaged for the time of a token.
    `end_to_end_repeats` may be fewer than `repeats`: answers are long.
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

    def rounds(self, batch: int) -> int:
        """How often each contender is timed at a batch size: below the largest, twice `repeats`."""
        return self.repeats * (1 if batch == max(self.batches) else 2)


@dataclass(frozen=True)
class Preset:
    """A model's sizes, as its configuration has them, and what is measured by default."""

    name: str
    about: str
    sizes: dict[str, Any]
    amount: Amount

    def config(self) -> Any:
        """Make the configuration."""
        from transformers import AutoConfig

        return AutoConfig.for_model(**json.loads(json.dumps(self.sizes)))  # which takes the dictionaries over


PRESETS = {
    preset.name: preset for preset in read(tuple[Preset, ...], Path(__file__).with_name("presets.json"))
}
