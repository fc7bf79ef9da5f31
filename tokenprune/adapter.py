# SPDX-License-Identifier: Apache-2.0
"""The glue between a model family and the strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from .budget import Budget
from .errors import IncompatibleError, PluginError, UnsupportedModelError
from .report import PruningReport
from .schedule_check import check_schedule

if TYPE_CHECKING:
    from .methods import Method
    from .trial import Specimen, Trial


@dataclass(frozen=True)
class Cut:
    """One place where tokens are dropped: a resolved method, its budget, and when to leave an image alone."""

    method: Method
    budget: Budget
    min_tokens: int = 0


class ModelAdapter(ABC):
    """What tokenprune has to know of a model family.

    `provides` maps each stage the adapter can cut at to the signals it can supply there. `positions` are the
    position rules the family allows, its default first.
    """

    name: ClassVar[str]
    default_stage: ClassVar[str] = "projector"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this adapter knows the model; decided by its class and config, without running it."""

    @classmethod
    def why_not(cls, model: nn.Module) -> str:
        """What this adapter can say about a model that no adapter knows; nothing by default."""
        return ""

    @property
    @abstractmethod
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals this model can give, by stage."""

    @property
    def positions(self) -> tuple[str, ...]:
        """Position rules the model allows, its default first."""
        return ("contiguous", "original")

    @abstractmethod
    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Make the model prune; return a function that undoes it without leaving a trace.

        `record` is called once for each prefill that had visual tokens.
        """

    def check_model(self) -> None:  # noqa: B027  (most adapters have nothing to refuse)
        """Refuse a model that cannot be pruned, whatever the method; called by `apply` first.

        Raises
        ------
        UnsupportedModelError
            When a part of the model, or of the library it comes from, is not where the adapter needs it.
        """

    def rehearse(self, cuts: Sequence[Cut]) -> str:
        """Try cuts before they are installed, and leave the model as it was; called by `apply`.

        Returns
        -------
        str
            What was measured, or why nothing was, for `PruningHandle.rehearsal`.

        Raises
        ------
        UnsupportedModelError
            When the pruned model would not answer as it should.
        """
        return f"not rehearsed: the adapter {self.name!r} has no rehearsal"

    @classmethod
    def specimens(cls) -> Sequence[Specimen]:
        """Tiny models of the family that `tokenprune check` tries; by default there are none."""
        return ()

    def example_inputs(self, seed: int = 0) -> Any:
        """Random inputs for this model, with at least one image, for `tokenprune.testing.check_model`.

        Raises
        ------
        UnsupportedModelError
            When the adapter can make none, as by default.
        """
        raise UnsupportedModelError(
            f"the adapter {self.name!r} makes no inputs for {type(self.model).__name__}; give what the model "
            "is called with: check_model(model, inputs)"
        )

    def placing(self, method: Method) -> dict[str, Any]:
        """Arguments of `apply` that say where a method cuts that does not say so itself, for checks."""
        return {}

    def trial(self, inputs: Any) -> Trial:
        """Runs of this model by which its promises are checked; by default identity and undoing alone.

        Raises
        ------
        UnsupportedCallError
            When these are no inputs that can be pruned.
        """
        from .trial import PlainTrial

        return PlainTrial(self.model, inputs)

    def check_together(self, cuts: Sequence[Cut]) -> None:
        """Refuse cuts that do not go together; by default more than one."""
        if len(cuts) != 1:
            raise IncompatibleError(
                f"the adapter {self.name!r} makes one cut, {len(cuts)} methods were given"
            )

    def check(self, cut: Cut) -> None:
        """Refuse what this model cannot do; called by `apply` before anything is touched.

        Raises
        ------
        IncompatibleError
            Wrong stage, a signal the model cannot give, or a position rule it cannot follow.
        """
        check_cut(cut, self.name, self.provides, self.positions)


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
