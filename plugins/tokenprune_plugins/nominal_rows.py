# SPDX-License-Identifier: Apache-2.0
"""Published lists of rows, and the budgets between them: shared by schedules with several cuts."""

from __future__ import annotations

from collections.abc import Sequence

import tokenprune

Lists = Sequence[tuple[float, tuple[float, ...]]]  # (nominal budget, rows after each cut), ascending


def rows_between(lists: Lists, nominal: float, full: int) -> tuple[float, ...]:
    """Return rows after each cut at a nominal budget, interpolated between published lists.

    Below the smallest list rows scale in proportion to it; above the largest, towards keeping all tokens.

    Parameters
    ----------
    lists
        Rows after each cut, by nominal budget, of an image of `full` tokens.
    nominal
        More than 0, at most `full`.
    """
    n_cuts = len(lists[0][1])
    ends: Lists = ((0, (0,) * n_cuts), *lists, (full, (full,) * n_cuts))
    (low, low_rows), (high, high_rows) = next(
        (a, b) for a, b in zip(ends, ends[1:], strict=False) if nominal <= b[0]
    )
    t = (nominal - low) / (high - low)
    return tuple(a + t * (b - a) for a, b in zip(low_rows, high_rows, strict=True))


def check_number_of_layers(title: str, layers: tuple[int, ...], lists: Lists, example: list[int]) -> None:
    """Raise unless there is one layer for each cut of the lists.

    Raises
    ------
    OptionError
        Naming the method by its `title`, with the layers in `example`.
    """
    n_cuts = len(lists[0][1])
    if len(layers) != n_cuts:
        raise tokenprune.OptionError(
            f"{title}'s lists have rows for {n_cuts} cuts, got layers "
            f"{', '.join(map(str, layers)) or 'none'}; pass {n_cuts} layers, such as layer={example}, or set "
            "the rows yourself: schedule={layer: rows, ...}"
        )
