# SPDX-License-Identifier: Apache-2.0
"""The three roles a plugin can play: score, select, reduce. Frozen dataclasses; options are fields."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .errors import OptionError
from .option_types import check_types
from .select_input import looking_first
from .selection import Selection
from .tokens import VisualTokens

S = TypeVar("S", bound="Strategy")


class Strategy(ABC):
    """What scorers, selectors and reducers have in common.

    `name` is how users ask for it: lower case, unique among its kind. `needs` are the signals it asks the
    tokens for. `batched` says whether it also takes a stack (B, N, D) of equal images.
    """

    name: ClassVar[str]
    batched: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Signals it will ask for; may depend on its options."""
        return frozenset()

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse a model it cannot work with, beyond missing signals; `apply` asks before anything is done.

        Raises
        ------
        IncompatibleError
            Saying what does not fit; by default nothing is refused.
        """

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of its options, the dataclass fields."""
        return (
            tuple(f.name for f in dataclasses.fields(cls) if f.init) if dataclasses.is_dataclass(cls) else ()
        )

    def with_options(self: S, **options: Any) -> S:
        """Return a copy with some options changed.

        Raises
        ------
        OptionError
            When it has no such option, or the value is of another type.
        """
        check_options(f"{self.kind} {self.name!r}", options, self.options())
        check_types(f"{self.kind} {self.name!r}", type(self), options)
        if not options:
            return self
        return dataclasses.replace(self, **options)  # type: ignore[type-var]

    kind: ClassVar[str] = "strategy"


class Scorer(Strategy):
    """Gives each visual token a score; higher = keep."""

    kind: ClassVar[str] = "scorer"

    @abstractmethod
    def score(self, tokens: VisualTokens) -> Tensor | None:
        """Return (N,) float32 scores ((B, N) for a stack), or None: no opinion."""


class Selector(Strategy):
    """Chooses which tokens stay.

    `space` names what distances are measured in: `"features"` or a signal. `by_position` says that equal
    tokens are told apart by where they stand, instead of the lowest slots being taken.
    """

    kind: ClassVar[str] = "selector"
    by_position: ClassVar[bool] = False
    space: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the class's `select` refuse what nothing can be chosen by; see `select_input`."""
        super().__init_subclass__(**options)
        if "select" in vars(cls):
            cls.select = looking_first(vars(cls)["select"])  # type: ignore[method-assign]

    @abstractmethod
    def select(self, tokens: VisualTokens, scores: Tensor | None, keep: int) -> Selection:
        """Return exactly `keep` rows, 1 <= keep <= N; ties go to the lowest slot.

        Raises
        ------
        BudgetError
            When `keep` is no whole number from 1 to N.
        InputError
            When scores or rows are not finite, or there is not one score a token.
        """


class Reducer(Strategy):
    """Optional third step: turns dropped tokens into extra rows, or changes kept ones."""

    kind: ClassVar[str] = "reducer"

    @abstractmethod
    def reduce(self, tokens: VisualTokens, selection: Selection, keep: int) -> Selection:
        """Return `keep` rows: the selection's and new ones; `selection.scores` are the scorer's."""

    @abstractmethod
    def n_selected(self, keep: int, n: int) -> int:
        """How many of `keep` rows out of `n` the selector shall choose; the rest are this reducer's."""


def check_options(what: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that `what` does not have."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        listed = ", ".join(known) or "no options"
        raise OptionError(f"{what} has no option {', '.join(map(repr, unknown))}; it has {listed}")
