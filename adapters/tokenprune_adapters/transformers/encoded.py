# SPDX-License-Identifier: Apache-2.0
"""What was recorded on the vision side while the images of a call were encoded."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokenprune import UnsupportedCallError
from tokenprune.towers.outcome import Outcome
from tokenprune.towers.survivors import Survivors


@dataclass
class Seen:
    """Tensors recorded in one encoding: projector inputs, class rows of tower outputs, queries and keys.

    `received` is what the rows of a block received, by block, in a tensor (B, n) for each call of its
    attention; see `tower.received`. `tower` says which tokens a cut inside the vision tower left; None if
    there was none.
    """

    projector_inputs: list[Tensor] = field(default_factory=list)
    tower_outputs: list[Tensor] = field(default_factory=list)
    attention: list[tuple[Tensor, Tensor, float | None]] = field(default_factory=list)
    received: dict[int, list[Tensor]] = field(default_factory=dict)
    tower: Outcome | None = None


@dataclass(frozen=True)
class Encoding:
    """An encoding that is running: its arguments that the adapter reads, and what was recorded so far."""

    arguments: dict[str, Any]
    seen: Seen


@dataclass
class Encoded:
    """The images of one encoding call: lengths, recorded tensors, arguments, rows and output.

    `arguments` are those that the adapter reads (`encoder_words`), None if not passed. `newlines` masks the
    separator tokens of each image (N,), if the adapter recognises them by their rows.
    """

    lengths: list[int]
    seen: Seen
    arguments: dict[str, Any]
    rows: Any = field(repr=False)
    output: weakref.ref[Any] = field(repr=False)
    newlines: list[Tensor] = field(default_factory=list)

    @property
    def survivors(self) -> Survivors | None:
        """The rows that left the vision tower; None if none was dropped there."""
        return None if self.seen.tower is None else self.seen.tower.survivors

    @property
    def projector_inputs(self) -> list[Tensor]:
        """Inputs of the projector, one tensor for each of its calls.

        Raises
        ------
        UnsupportedCallError
            If the module that was found at `apply` has not run.
        """
        if not self.seen.projector_inputs:
            raise UnsupportedCallError(
                "the projector that apply() found did not run in this call: another module took its place, "
                "such as PEFT's copy of it (modules_to_save) for another adapter. Call remove() on the "
                "handle, and apply() again"
            )
        return self.seen.projector_inputs

    def widened(self, rows: Tensor, images: range | None = None) -> Tensor:
        """Widen rows of the tokens that left the tower to all tokens.

        Parameters
        ----------
        rows
            (images, K, ...) of a batch, or (K, ...) of a sequence with all images.
        images
            Which images of a batch these are.
        """
        return rows if self.survivors is None else self.survivors.widen_tokens(rows, images=images)

    def rows_of(self, number: int, rows: Tensor) -> Tensor:
        """Slice one image's rows (N, ...) from those of all images, one after the other."""
        start = sum(self.lengths[:number])
        return rows[start : start + self.lengths[number]]


ImageSignal = Callable[[Encoded, int], Any]  # takes an encoding and the index of an image in it
