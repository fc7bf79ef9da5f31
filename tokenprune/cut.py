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
    """One place where tokens are dropped.

    `method` is resolved; images with fewer than `min_tokens` tokens are left alone. `positions` is the rule
    that holds on this model: `"contiguous"` (kept tokens are renumbered) or `"original"`.
    """

    method: Method
    budget: Budget
    min_tokens: int = 0
    positions: str = "contiguous"

    @property
    def closes_up(self) -> bool:
        """Whether kept tokens are renumbered."""
        return self.positions == "contiguous"


def position_rule(method: Method, asked: str | None, allowed: Sequence[str]) -> str:
    """Return a cut's position rule: the one asked for, the method's if the model allows it, or its default.

    Parameters
    ----------
    asked
        What the user asked for; it is checked by `check_cut`.
    allowed
        Rules the model allows, its default first.
    """
    if asked is not None:
        return asked
    return allowed[0] if method.positions is None or method.positions not in allowed else method.positions


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
    if cut.positions not in positions:
        raise IncompatibleError(
            f"positions={cut.positions!r} is not possible on this model; it allows: {', '.join(positions)}"
        )
