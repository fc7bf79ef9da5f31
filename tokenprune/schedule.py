# SPDX-License-Identifier: Apache-2.0
"""Schedules: the decoder layers before which tokens are cut, and the rows left after each cut."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from .errors import BudgetError, IncompatibleError, OptionError
from .option_types import as_python, check_one_of, is_integer

BUDGET_UNITS = ("rows", "average", "paper")  # what `keep` counts at the decoder stage


class Schedule(ABC):
    """Cuts at several layers with one parameter, the `level`: the higher it is, the more rows are kept.

    Subclasses are frozen dataclasses. `layers` are ascending indices from 0; the cuts are made before these
    layers. They are stated for a model of `depth` layers and rescaled to others; with depth None they are
    used as given.
    """

    layers: tuple[int, ...]
    depth: int | None

    @abstractmethod
    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left of `n` after each cut, new ones included; `level` is the nominal budget."""

    def boundaries(self, n_layers: int) -> tuple[int, ...]:
        """Return the layers of the cuts in a model of `n_layers`, max(1, round(l L / depth)), ascending.

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
        """Return this schedule with other layers, which are not rescaled."""
        changed: Schedule = dataclasses.replace(self, layers=layers, depth=None)  # type: ignore[type-var]
        return changed

    def cuts(self, keep: int, n: int, n_layers: int, budget: str = "rows") -> dict[int, int]:
        """Return {layer: rows left} of an image of `n` tokens; empty if nothing is cut.

        Parameters
        ----------
        keep
            The budget, in the unit `budget`.
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
            When an average is requested that the layers before the first cut alone exceed.
        IncompatibleError
            When the model has too few layers.
        """
        check_one_of("budget", budget, BUDGET_UNITS)
        layers = self.boundaries(n_layers)
        if keep >= n:
            return {}
        return dropping(layers, _rows(self, layers, keep, n, n_layers, budget), n)


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


def dropping(layers: tuple[int, ...], rows: tuple[int, ...], n: int) -> dict[int, int]:
    """Return rows after each cut by layer, without the cuts that would drop none of the rows left of `n`."""
    cuts, left = {}, n
    for layer, remaining in zip(layers, rows, strict=True):
        if remaining < left:
            cuts[layer] = left = remaining
    return cuts


def falling(rows: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Return the rows after each cut, limited to at least 1 and at most the rows left of `n` before it."""
    result = []
    for requested in rows:
        n = max(1, min(n, requested))
        result.append(n)
    return tuple(result)


def mean_rows(cuts: Mapping[int, int], n: int, n_layers: int) -> float:
    """Return the mean number of visual rows entering a layer: `n` before the first cut, then those left."""
    return sum(entering(cuts, n, n_layers)) / n_layers


def entering(cuts: Mapping[int, int], n: int, n_layers: int) -> list[int]:
    """Return the number of rows that enter each layer: `n` before the first cut, then those left."""
    rows = []
    for layer in range(n_layers):
        n = cuts.get(layer, n)
        rows.append(n)
    return rows


@dataclass(frozen=True)
class GeometricSchedule(Schedule):
    """Each of S cuts keeps the same share of its rows: n (level / n)^(i / S) after cut i, rounded down.

    With a single layer this is one cut to `level` rows. The nominal budget is the rows after the last cut.
    """

    layers: tuple[int, ...]
    depth: int | None = 32

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left after each cut."""
        share, n_cuts = level / n, len(self.layers)
        earlier = (int(n * share ** (i / n_cuts) + 1e-6) for i in range(1, n_cuts))
        return (*earlier, level)


def at_layers(schedule: Schedule | None, layer: Any) -> Schedule:
    """Return a schedule with cuts before other layers, an index or several; None: a geometric one."""
    layers = tuple(map(as_python, layer if isinstance(layer, (list, tuple)) else [layer]))
    if not layers or not all(map(is_integer, layers)):
        raise OptionError(f"layer must be the index of a decoder layer (from 0) or a list, got {layer!r}")
    return GeometricSchedule(layers, depth=None) if schedule is None else schedule.at(*layers)


@dataclass(frozen=True)
class ExplicitSchedule(Schedule):
    """Fixed numbers of rows at fixed layers, independent of the budget."""

    layers: tuple[int, ...]
    rows: tuple[int, ...]
    depth: int | None = None

    @classmethod
    def from_mapping(cls, cuts: Mapping[int, int]) -> ExplicitSchedule:
        """Make a schedule from {layer: rows}; each cut is made before its layer.

        Raises
        ------
        BudgetError
            When there is no cut, a layer or number of rows is not an integer, or a cut leaves no row or more
            rows than the cut before it.
        """
        if not all(is_integer(number) for cut in cuts.items() for number in cut):
            raise BudgetError(f"a schedule must be {{layer: rows}}, all integers, got {dict(cuts)}")
        layers = tuple(sorted(cuts))
        rows = tuple(int(cuts[layer]) for layer in layers)
        if not rows or min(rows) < 1 or any(b > a for a, b in zip(rows, rows[1:], strict=False)):
            raise BudgetError(
                f"rows of a schedule must be at least 1 and not increase from cut to cut, got {dict(cuts)}"
            )
        return cls(tuple(map(int, layers)), rows)

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the fixed rows."""
        return self.rows

    def cuts(self, keep: int, n: int, n_layers: int, budget: str = "rows") -> dict[int, int]:
        """Return the cuts as given, without those that would drop no rows."""
        return dropping(self.boundaries(n_layers), self.rows, n)
