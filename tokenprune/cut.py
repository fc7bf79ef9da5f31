# SPDX-License-Identifier: Apache-2.0
"""One place where tokens are dropped, and whether a model's adapter can make the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .budget import Budget
from .errors import IncompatibleError, PluginError
from .methods import Method
from .schedule_check import check_schedule


@dataclass(frozen=True)
class Cut:
    """One place where tokens are dropped: a resolved method, its budget, and when to leave an image alone."""

    method: Method
    budget: Budget
    min_tokens: int = 0


def check_cut(cut: Cut, name: str, provides: Mapping[str, frozenset[str]], positions: Sequence[str]) -> None:
    """Refuse a cut that the adapter `name` cannot make, given its signals by stage and its position rules.

    Raises
    ------
    IncompatibleError
        Wrong stage, a signal the model cannot give, or a position rule it cannot follow.
    OptionError
        A schedule whose rows do not go with its layers.
    """
    method = cut.method
    if method.stage not in provides:
        raise IncompatibleError(
            f"method {method.name!r} cuts at the stage {method.stage!r}; adapter {name!r} cuts at: "
            f"{', '.join(provides)}"
        )
    given = provides[method.stage]
    for part in method.parts:
        if not isinstance(part.needs, (frozenset, set)):
            raise PluginError(f"{part.kind} {part.name!r}: needs is a frozenset of names, got {part.needs!r}")
        missing = sorted(part.needs - given)
        if missing:
            raise IncompatibleError(
                f"the {part.kind} {part.name!r} needs the signal {', '.join(missing)}, which the adapter "
                f"{name!r} cannot give at the stage {method.stage!r} for this model. It gives: "
                f"{', '.join(sorted(given))}. Choose a {part.kind} that needs only these"
            )
    if method.schedule is not None:
        check_schedule(method.schedule)
    n_cuts = 1 if method.schedule is None else len(method.schedule.layers)
    if n_cuts > 1 and (method.scope == "tile" or method.newlines == "keep"):
        raise IncompatibleError(
            f"scope='tile' and newlines='keep' hold for one cut, and method {method.name!r} makes {n_cuts}; "
            "use scope='image' and newlines='compete', or a single layer="
        )
    if method.positions is not None and method.positions not in positions:
        raise IncompatibleError(
            f"positions={method.positions!r} is not possible on this model; it allows: {', '.join(positions)}"
        )
