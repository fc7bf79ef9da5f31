# SPDX-License-Identifier: Apache-2.0
"""At which decoder layers tokens are cut, and how many rows stay after each cut."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from .errors import BudgetError, IncompatibleError
from .option_types import check_one_of

BUDGET_UNITS = ("rows", "average", "paper")  # what `keep` means at the decoder stage


class Schedule(ABC):
    """A family of cuts with one knob, the `level`: more level, more rows.

    Subclasses are frozen dataclasses. `layers` are the boundaries, ascending: 7 means before layer 7, counted
    from 0. They are stated for a model of `depth` layers and rescaled to others; with depth None they are
    taken as they are.
    """

    layers: tuple[int, ...]
    depth: int | None

    @abstractmethod
    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Rows left of `n` after each cut, new rows counted; `level`, 1 to n, is the nominal budget."""

    def boundaries(self, n_layers: int) -> tuple[int, ...]:
        """Layers before which is cut, in a model of `n_layers`: max(1, round(l L / depth)), ascending.

        Raises
        ------
        IncompatibleError
            When the model has too few layers.
        """
        cuts: list[int] = []
        for layer in self.layers:
            scaled = layer if self.depth is None else max(1, round(layer * n_layers / self.depth))
            cuts.append(scaled if not cuts or self.depth is None else max(scaled, cuts[-1] + 1))
        if cuts[0] < 0 or cuts[-1] >= n_layers or any(b <= a for a, b in zip(cuts, cuts[1:], strict=False)):
            raise IncompatibleError(
                f"cannot cut before the layers {', '.join(map(str, cuts))}: they must ascend and lie within "
                f"0 ... {n_layers - 1}, the model has {n_layers} layers"
            )
        return tuple(cuts)

    def at(self, *layers: int) -> Schedule:
        """The same schedule before exactly these layers, not rescaled."""
        changed: Schedule = dataclasses.replace(self, layers=layers, depth=None)  # type: ignore[type-var]
        return changed

    def cuts(self, keep: int, n: int, n_layers: int, budget: str = "rows") -> dict[int, int]:
        """Rows left of an image of `n` tokens after the cut before each layer; empty if nothing is cut.

        Parameters
        ----------
        keep
            What it counts is said by `budget`.
        n
            Visual tokens of the image.
        n_layers
            Decoder layers of the model.
        budget
            `"rows"`: rows left after the last cut. `"average"`: mean number of visual rows entering a layer.
            `"paper"`: the nominal budget of the method's publication.

        Raises
        ------
        BudgetError
            When an average is asked for that the layers before the first cut alone exceed.
        IncompatibleError
            When the model has too few layers.
        """
        check_one_of("budget", budget, BUDGET_UNITS)
        layers = self.boundaries(n_layers)
        if keep >= n:
            return {}
        return dict(zip(layers, _rows(self, layers, keep, n, n_layers, budget), strict=True))


@functools.lru_cache(maxsize=1024)
def _rows(
    schedule: Schedule, layers: tuple[int, ...], keep: int, n: int, n_layers: int, unit: str
) -> tuple[int, ...]:
    if unit == "paper":
        return falling(schedule.rows_at(keep, n), n)
    levels = {level: falling(schedule.rows_at(level, n), n) for level in range(1, n + 1)}
    if unit == "rows":
        nearest = min(levels, key=lambda level: (abs(levels[level][-1] - keep), level))
        return (*(max(rows, keep) for rows in levels[nearest][:-1]), keep)
    means = {level: mean_rows(dict(zip(layers, levels[level], strict=True)), n, n_layers) for level in levels}
    floor = means[1]
    if keep < floor:
        raise BudgetError(
            f"an average of {keep} rows a layer is not possible: before the first cut (layer {layers[0]} of "
            f"{n_layers}) all {n} tokens are seen, the least is {floor:.1f}. Give {ceil(floor)} to {n}, cut "
            f"earlier, or use budget='rows'"
        )
    return levels[min(means, key=lambda level: (abs(means[level] - keep), level))]


def falling(rows: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Rows after each cut, made at least 1 and at most what the cut before left of `n`."""
    result = []
    for wanted in rows:
        n = max(1, min(n, wanted))
        result.append(n)
    return tuple(result)


def mean_rows(cuts: Mapping[int, int], n: int, n_layers: int) -> float:
    """Mean number of visual rows entering a layer: `n` before the first cut, then what each cut left."""
    entering, total = n, 0
    for layer in range(n_layers):
        entering = cuts.get(layer, entering)
        total += entering
    return total / n_layers


@dataclass(frozen=True)
class GeometricSchedule(Schedule):
    """Each of S cuts leaves the same share of what it finds: n (level / n)^(i / S) after cut i, truncated.

    With a single layer this is one cut to `level` rows. The nominal budget is what the last cut leaves.
    """

    layers: tuple[int, ...]
    depth: int | None = 32

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Rows left after each cut."""
        share, n_cuts = level / n, len(self.layers)
        earlier = (int(n * share ** (i / n_cuts) + 1e-6) for i in range(1, n_cuts))
        return (*earlier, level)


@dataclass(frozen=True)
class ExplicitSchedule(Schedule):
    """Exactly these rows before exactly these layers, whatever the budget says."""

    layers: tuple[int, ...]
    rows: tuple[int, ...]
    depth: int | None = None

    @classmethod
    def from_mapping(cls, cuts: Mapping[int, int]) -> ExplicitSchedule:
        """Make it of {boundary before layer: rows}.

        Raises
        ------
        BudgetError
            When there is no cut, or one leaves no row or more than the cut before it, or those are no whole
            numbers.
        """
        if not all(isinstance(number, int) for one in cuts.items() for number in one):
            raise BudgetError(f"a schedule is {{layer: rows}}, all whole numbers, got {dict(cuts)}")
        layers = tuple(sorted(cuts))
        rows = tuple(cuts[layer] for layer in layers)
        if not rows or min(rows) < 1 or any(b > a for a, b in zip(rows, rows[1:], strict=False)):
            raise BudgetError(
                f"a schedule says how many rows are left after each cut; they must fall and stay at least 1, "
                f"got {dict(cuts)}"
            )
        return cls(layers, rows)

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """The rows as given."""
        return self.rows

    def cuts(self, keep: int, n: int, n_layers: int, budget: str = "rows") -> dict[int, int]:
        """The cuts as given, without those before which no more rows are left than they leave."""
        cuts, left = {}, n
        for layer, rows in zip(self.boundaries(n_layers), self.rows, strict=True):
            if rows < left:
                cuts[layer] = left = rows
        return cuts
