# SPDX-License-Identifier: Apache-2.0
"""The base class of adapters, which connect model families to strategies."""

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
    """Connects a model family to tokenprune: what it provides, and how it is pruned.

    `provides` maps each stage the adapter can cut at to the signals it can supply there. `positions` are the
    position rules the family allows, its default first. `can_trace` says that an installed model passes a
    trace of each call to `record_trace`, which `apply(..., trace=True)` sets beforehand; `can_trim`, that it
    follows a method's `trim_early_cache`. A `fallback` adapter recognises models by their parts, and is used
    for a model that no other adapter matches.
    """

    name: ClassVar[str]
    fallback: ClassVar[bool] = False
    default_stage: ClassVar[str] = "projector"
    can_trace: ClassVar[bool] = False
    can_trim: ClassVar[bool] = False
    record_trace: Callable[[CallTrace], None] | None = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def matches(cls, model: nn.Module) -> bool:
        """Whether this adapter supports the model; decided by its class and config, without running it."""

    @classmethod
    def why_not(cls, model: nn.Module) -> str:
        """Return a reason why this adapter does not match a model that none matches; empty by default."""
        return ""

    @property
    @abstractmethod
    def provides(self) -> Mapping[str, frozenset[str]]:
        """Signals that can be computed for this model, by stage."""

    @property
    def positions(self) -> tuple[str, ...]:
        """Position rules the model allows, its default first."""
        return ("contiguous", "original")

    @abstractmethod
    def install(self, cuts: Sequence[Cut], record: Callable[[PruningReport], None]) -> Callable[[], None]:
        """Install the pruning on the model; return a function that removes it completely.

        `record` is called once for each prefill with visual tokens.
        """

    def check_model(self) -> None:  # noqa: B027  (most adapters have nothing to check)
        """Raise for a model that cannot be pruned, whatever the method; called by `apply` first.

        Raises
        ------
        UnsupportedModelError
            When a part of the model, or of the library it comes from, is not where the adapter expects it.
        """

    def rehearse(self, cuts: Sequence[Cut]) -> str:
        """Try cuts before they are installed, leaving the model unchanged; called by `apply`.

        Returns
        -------
        str
            What was measured, or why nothing was, for `PruningHandle.rehearsal`.

        Raises
        ------
        UnsupportedModelError
            When the pruned model would give wrong results.
        """
        return f"not rehearsed: the adapter {self.name!r} has no rehearsal"

    @classmethod
    def specimens(cls) -> Sequence[Specimen]:
        """Return tiny models of the family for `tokenprune check`; none by default."""
        return ()

    def example_inputs(self, seed: int = 0) -> Any:
        """Return random inputs for this model, with at least one image, for `tokenprune.testing.check_model`.

        Raises
        ------
        UnsupportedModelError
            When the adapter cannot make any, which is the default.
        """
        raise UnsupportedModelError(
            f"the adapter {self.name!r} cannot make inputs for {type(self.model).__name__}; pass the inputs "
            "of the model: check_model(model, inputs)"
        )

    def placing(self, method: Method) -> dict[str, Any]:
        """Return the arguments of `apply` with which checks place a method that has no layers of its own."""
        return {}

    def trial(self, inputs: Any) -> Trial | None:
        """Return the runs that check this model's promises; None: only identity and undo are checked.

        Raises
        ------
        UnsupportedCallError
            When these inputs cannot be pruned.
        """
        return None

    def check_together(self, cuts: Sequence[Cut]) -> None:
        """Raise for cuts that cannot be combined; by default, for more than one."""
        if len(cuts) != 1:
            raise IncompatibleError(
                f"the adapter {self.name!r} supports a single cut, but {len(cuts)} methods were given"
            )

    def check(self, cut: Cut) -> None:
        """Raise for a cut this model does not support; called by `apply` before the model is modified.

        Raises
        ------
        IncompatibleError
            For a wrong stage, or a signal or position rule that the model does not support.
        """
        check_cut(cut, self.name, self.provides, self.positions)
