# SPDX-License-Identifier: Apache-2.0
"""Base classes of scorers, selectors and reducers: frozen dataclasses whose fields are the options."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .errors import OptionError
from .option_types import as_python, check_types
from .select_input import validated_select
from .selection import Selection
from .tokens import VisualTokens

S = TypeVar("S", bound="Strategy")


class Strategy(ABC):
    """Base class of scorers, selectors and reducers.

    `name` identifies the strategy: lower case, unique within its kind. `needs` are the signals it uses.
    `batched` says whether it also accepts a stack (B, N, D) of equal images.
    """

    name: ClassVar[str]
    batched: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the strategy uses; may depend on its options."""
        return frozenset()

    def tower_blocks(self, depth: int) -> tuple[int, ...]:
        """Return the blocks of the vision tower of which it reads `tower_received`; none by default.

        `apply` asks before it changes the model, and only the attention of these blocks is observed.

        Parameters
        ----------
        depth
            Number of the tower's blocks, up to the last whose output is projected; the signal `tower_depth`.
            Blocks are counted from 0.
        """
        return ()

    @property
    def stacks(self) -> bool:
        """Whether images of equal layout and budget can be passed to it as a stack."""
        return self.batched

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most have nothing to check)
        """Raise for an incompatible model, beyond missing signals; called by `apply` before any change.

        Raises
        ------
        IncompatibleError
            Naming what is incompatible. The default accepts every model.
        """

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Return the names of the options, which are the dataclass fields."""
        return (
            tuple(f.name for f in dataclasses.fields(cls) if f.init) if dataclasses.is_dataclass(cls) else ()
        )

    def with_options(self: S, **options: Any) -> S:
        """Return a copy with changed options.

        Raises
        ------
        OptionError
            When there is no option of this name, or the value has the wrong type.
        """
        check_options(f"{self.kind} {self.name!r}", options, self.options())
        options = {name: as_python(value) for name, value in options.items()}
        check_types(f"{self.kind} {self.name!r}", type(self), options)
        if not options:
            return self
        return dataclasses.replace(self, **options)  # type: ignore[type-var]

    kind: ClassVar[str] = "strategy"


class Scorer(Strategy):
    """Gives each visual token a score; higher = keep.

    `gives_scores` is False if `score` always returns None.
    """

    kind: ClassVar[str] = "scorer"
    gives_scores: ClassVar[bool] = True

    @abstractmethod
    def score(self, tokens: VisualTokens) -> Tensor | None:
        """Return (N,) float32 scores ((B, N) for a stack), or None for no preference."""


class Selector(Strategy):
    """Selects the tokens to keep.

    `space` names the feature space of distances: `"features"` or a signal. `by_position` says that ties
    between equal tokens are broken by their position in the image, not by the lowest slot. An `adaptive`
    selector returns at most `keep` rows; how many depends on the picture.
    """

    kind: ClassVar[str] = "selector"
    by_position: ClassVar[bool] = False
    space: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the class's `select` so that its arguments are validated; see `select_input`."""
        super().__init_subclass__(**options)
        if "select" in vars(cls):
            cls.select = validated_select(vars(cls)["select"])  # type: ignore[method-assign]

    @property
    def adaptive(self) -> bool:
        """Whether the number of rows depends on the picture; may depend on the selector's options."""
        return False

    def nested(self, scored: bool) -> bool:
        """Return whether its picks (`Selection.order`) for k tokens are the first k of its picks for more.

        Budgets with a rule, such as `tokenprune.cover`, need it.

        Parameters
        ----------
        scored
            Whether it is given scores.
        """
        return False

    @property
    def stacks(self) -> bool:
        """Whether it takes stacks of images; an adaptive selector does not, as their numbers differ."""
        return self.batched and not self.adaptive

    @abstractmethod
    def select(self, tokens: VisualTokens, scores: Tensor | None, keep: int) -> Selection:
        """Return exactly `keep` rows, 1 <= keep <= N, or if `adaptive` at most; ties go to the lowest slot.

        Raises
        ------
        BudgetError
            When `keep` is not an integer from 1 to N.
        InputError
            When scores or rows are not finite, or there is not one score per token.
        """


class Reducer(Strategy):
    """Merges dropped tokens into new rows, or changes kept ones, after the selector; optional."""

    kind: ClassVar[str] = "reducer"

    @abstractmethod
    def reduce(self, tokens: VisualTokens, selection: Selection, keep: int) -> Selection:
        """Return `keep` rows, those of `selection` and new ones; `selection.scores` are the scorer's."""

    @abstractmethod
    def n_selected(self, keep: int, n: int) -> int:
        """Return how many of the `keep` rows out of `n` the selector chooses; the reducer makes the rest."""


def check_options(what: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise for options that are not among `known`."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        listed = ", ".join(known) or "no options"
        raise OptionError(f"{what} has no option {', '.join(map(repr, unknown))}; it has {listed}")
