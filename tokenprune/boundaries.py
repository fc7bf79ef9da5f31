# SPDX-License-Identifier: Apache-2.0
"""Records of what one call of a pruned model did at each boundary where rows are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAMES = {"projector": "language model", "decoder": "layer {}", "vision": "block {}"}
HEADER = ("before", "row", "in", "out", "positions", "mask", "stored", "masked", "seen")
COUNTS = frozenset({"in", "out", "stored", "masked", "seen"})  # columns that are aligned to the right


@dataclass(frozen=True)
class RowTrace:
    """One row of the batch at one boundary.

    Attributes
    ----------
    n_in, n_out
        Tokens of this row before and after the boundary, padding not counted.
    first, last
        Positions of the first and the last token that goes on, one integer for each axis of the positions;
        None if no token goes on or the model computes no positions.
    masked
        Slots of the key-value cache that this row does not see (its padding), out of `BoundaryTrace.stored`.
    """

    n_in: int
    n_out: int
    first: tuple[int, ...] | None = None
    last: tuple[int, ...] | None = None
    masked: int = 0


@dataclass(frozen=True)
class BoundaryTrace:
    """One boundary of one call.

    Attributes
    ----------
    stage, layer
        Where it is: the stage of the cut, and the decoder layer, or block of the vision tower, before which
        rows are dropped (0 at the stage `"projector"`, which is before the whole language model).
    rows
        One record for each row of the batch.
    positions
        `"original"` or `"contiguous"`: whether dropped tokens leave gaps in the positions.
    mask
        Shape of the attention mask that is passed on; None if there is none.
    stored, seen
        Slots in use, and tokens seen, of the key-value cache at the layer behind the boundary, after the
        call; padding counts in both. None without a cache.
    """

    stage: str
    layer: int
    rows: tuple[RowTrace, ...]
    positions: str
    mask: tuple[int, ...] | None = None
    stored: int | None = None
    seen: int | None = None

    @property
    def name(self) -> str:
        """Name of the layer or block that follows the boundary."""
        return NAMES[self.stage].format(self.layer)

    def lines(self) -> list[tuple[str, ...]]:
        """Return the table's cells, one line for each row of the batch, or a single one if all are equal."""
        same = len(self.rows) > 1 and len(set(self.rows)) == 1
        numbered = [("all", self.rows[0])] if same else [(str(i), row) for i, row in enumerate(self.rows)]
        return [
            (
                self.name,
                number,
                str(row.n_in),
                str(row.n_out),
                f"{self.positions}, {_span(row)}" if row.first is not None else "-",
                str(self.mask),
                "-" if self.stored is None else str(self.stored),
                "-" if self.stored is None else str(row.masked),
                "-" if self.seen is None else str(self.seen),
            )
            for number, row in numbered
        ]


@dataclass(frozen=True)
class CallTrace:
    """One call of a pruned model; `str()` of it is a table.

    `n_new` is the number of tokens of each row of the batch, padding counted: 1 in a decoding step.
    `boundaries` are in the order in which the call passed them.
    """

    n_new: int
    boundaries: tuple[BoundaryTrace, ...]

    def __str__(self) -> str:
        lines = [HEADER, *(line for boundary in self.boundaries for line in boundary.lines())]
        return "\n".join(_aligned(lines))

    def __repr__(self) -> str:
        return f"<CallTrace of {len(self.boundaries)} boundaries, {self.n_new} new tokens>"


def _span(row: RowTrace) -> str:
    """Format the first and the last position, without parentheses if there is a single axis."""
    ends = [str(end[0] if len(end) == 1 else end) for end in (row.first, row.last) if end is not None]
    return " to ".join(dict.fromkeys(ends))


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Format lines of cells as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name in COUNTS else cell.ljust(width)
            for name, cell, width in zip(HEADER, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
