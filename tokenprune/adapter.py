# SPDX-License-Identifier: Apache-2.0
"""The glue between a model family and the strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from .boundaries import CallTrace
from .cut import Cut, check_cut
from .errors import IncompatibleError, UnsupportedModelError
from .methods import Method
from .report import PruningReport
from .trial import Specimen, Trial


class ModelAdapter(ABC):
    """What tokenprune has to know of a model family.

    `provides` maps each stage the adapter can cut at to the signals it can supply there. `positions` are the
    position rules the family allows, its default first. `can_trace` says that `install` makes the model hand
    a trace of each call to `record_trace`, which `apply(..., trace=True)` sets beforehand.
    """

    name: ClassVar[str]
    default_stage: ClassVar[str] = "projector"
    can_trace: ClassVar[bool] = False
    record_trace: Callable[[CallTrace], None] | None = None

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

    def trial(self, inputs: Any) -> Trial | None:
        """Runs of this model by which its promises are checked; None: identity and undoing alone.

        Raises
        ------
        UnsupportedCallError
            When these are no inputs that can be pruned.
        """
        return None

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
