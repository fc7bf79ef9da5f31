# SPDX-License-Identifier: Apache-2.0
"""A cut: one place where tokens are dropped, and its validation against an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .budget import Budget
from .errors import IncompatibleError, OptionError, PluginError, TokenPruneError
from .methods import Method
from .option_types import is_integer
from .schedule import Schedule
from .trimming import check_trimming

EXAMPLE = (64, 576)  # level and number of tokens for which every schedule must have rows


@dataclass(frozen=True)
class Cut:
    """One place where tokens are dropped.

    `method` is resolved, and `budget` keeps at least the share that the method names. Images with fewer than
    `min_tokens` tokens are not pruned. `positions` is the rule for this model: `"contiguous"` (kept tokens
    are renumbered) or `"original"`.
    """

    method: Method
    budget: Budget
    min_tokens: int = 0
    positions: str = "contiguous"

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget.of(self.budget, self.method.at_least))

    @property
    def closes_up(self) -> bool:
        """Whether kept tokens are renumbered."""
        return self.positions == "contiguous"

    @property
    def adaptive(self) -> bool:
        """Whether the number of rows kept depends on the picture, by the method or a rule."""
        return self.method.adaptive or self.budget.rule is not None


def position_rule(method: Method, requested: str | None, allowed: Sequence[str]) -> str:
    """Return a cut's position rule: the requested one, the method's if allowed, or the model's default.

    Parameters
    ----------
    requested
        The user's choice, which `check_cut` validates.
    allowed
        Rules the model allows, its default first.
    """
    if requested is not None:
        return requested
    return allowed[0] if method.positions is None or method.positions not in allowed else method.positions


def check_cut(cut: Cut, name: str, provides: Mapping[str, frozenset[str]], positions: Sequence[str]) -> None:
    """Raise for a cut that the adapter `name` does not support, with its signals by stage and position rules.

    Raises
    ------
    IncompatibleError
        For a wrong stage, a signal or position rule that the model does not support, or a rule for the
        number of tokens that the method cannot follow; for early caches that it cannot trim.
    OptionError
        For a schedule whose rows do not match its layers.
    """
    method = cut.method
    if method.stage not in provides:
        raise IncompatibleError(
            f"method {method.name!r} cuts at the stage {method.stage!r}; adapter {name!r} cuts at: "
            f"{', '.join(provides)}"
        )
    provided = provides[method.stage]
    for part in method.parts:
        if not isinstance(part.needs, (frozenset, set)):
            raise PluginError(
                f"{part.kind} {part.name!r}: needs must be a frozenset of names, got {part.needs!r}"
            )
        missing = sorted(part.needs - provided)
        if missing:
            raise IncompatibleError(
                f"the {part.kind} {part.name!r} needs the signal {', '.join(missing)}, which the adapter "
                f"{name!r} cannot give at the stage {method.stage!r} for this model. It gives: "
                f"{', '.join(sorted(provided))}. Choose a {part.kind} that needs only these"
            )
    check_trimming(method)
    if method.schedule is not None:
        check_schedule(method.schedule)
    if cut.budget.rule is not None:
        method.check_rule(cut.budget.rule)
    n_cuts = 1 if method.schedule is None else len(method.schedule.layers)
    if n_cuts > 1 and (method.scope != "image" or method.newlines == "keep"):
        raise IncompatibleError(
            f"scope='tile', scope='split' and newlines='keep' need a single cut, but method {method.name!r} "
            f"makes {n_cuts}; use scope='image' and newlines='compete', or a single layer="
        )
    if cut.positions not in positions:
        raise IncompatibleError(
            f"positions={cut.positions!r} is not possible on this model; it allows: {', '.join(positions)}"
        )


def refuse_adaptive(method: Method, reason: str, budget: Budget | None = None) -> None:
    """Raise if the number of tokens that a method keeps, or a budget, depends on the picture.

    Parameters
    ----------
    reason
        Why the number must be known, a clause.

    Raises
    ------
    IncompatibleError
        Naming the method or the budget, and the reason.
    """
    if budget is not None and budget.rule is not None:
        raise IncompatibleError(
            f"how many tokens keep={budget.rule} keeps depends on the picture, but {reason}; give keep= as a "
            "number, or keep_ratio="
        )
    if method.adaptive:
        raise IncompatibleError(
            f"how many tokens method {method.name!r} keeps depends on the picture, but {reason}; choose a "
            "selector, or options of it, with which exactly `keep` tokens are kept"
        )


def refuse_new_rows(method: Method, n_layers: int) -> None:
    """Raise if a method has a reducer, for a model that adds rows to visual tokens in early layers.

    Parameters
    ----------
    n_layers
        Number of the decoder layers after which rows are added.

    Raises
    ------
    IncompatibleError
        Naming the method and the reason.
    """
    if method.reducer is not None:
        raise IncompatibleError(
            f"method {method.name!r} makes new rows, and this model adds rows of earlier vision blocks "
            f"to each visual token after its first {n_layers} decoder layers: a new row has none. Choose a "
            "method that only drops tokens"
        )


def check_schedule(schedule: Schedule) -> None:
    """Raise for a schedule whose rows do not match its layers.

    Raises
    ------
    OptionError
        When there is no layer, a layer or number of rows is not an integer, or there is not one number of
        rows for each layer.
    PluginError
        When `rows_at` fails.
    """
    name, layers = type(schedule).__name__, schedule.layers
    if not isinstance(layers, tuple) or not layers or not all(map(is_integer, layers)):
        raise OptionError(f"{name}: layers must be a tuple of one or more layer indices, got {layers!r}")
    try:
        rows = schedule.rows_at(*EXAMPLE)
    except TokenPruneError:
        raise
    except Exception as error:  # third-party code
        raise PluginError(f"{name}.rows_at failed: {type(error).__name__}: {error}") from error
    if not isinstance(rows, tuple) or not all(map(is_integer, rows)):
        raise OptionError(f"{name}: rows must be a tuple of integers, one for each cut, got {rows!r}")
    if len(rows) != len(layers):
        raise OptionError(
            f"{name} gives {len(rows)} numbers of rows for {len(layers)} layers "
            f"({', '.join(map(str, layers))}); give one number of rows for each layer"
        )
