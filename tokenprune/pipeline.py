# SPDX-License-Identifier: Apache-2.0
"""The steps of a method as objects: score, select, reduce; the output of each is validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .checks import check_scores, check_selection, errors_attributed
from .covering import Cover
from .errors import IncompatibleError
from .lookup import StrategyLookup, default_lookup
from .select_input import unvalidated_select
from .selection import Selection
from .strategy import Reducer, Scorer, Selector, Strategy
from .tokens import VisualTokens

Adjust = Callable[[Selection], Selection]


@dataclass(frozen=True)
class Pipeline:
    """The scorer, the selector and the optional reducer of a method."""

    scorer: Scorer
    selector: Selector
    reducer: Reducer | None = None

    def __post_init__(self) -> None:
        if self.selector.adaptive and self.reducer is not None:
            raise IncompatibleError(
                f"the reducer {self.reducer.name!r} needs a selector that keeps exactly as many tokens as "
                f"requested, but how many {self.selector.name!r} keeps depends on the picture; use no reducer"
            )

    @property
    def parts(self) -> tuple[Strategy, ...]:
        """The strategies in the order they run."""
        both = (self.scorer, self.selector)
        return both if self.reducer is None else (*both, self.reducer)

    def check_rule(self, rule: Cover, scored: bool) -> None:
        """Raise if the number of tokens cannot follow from a rule, with scores or without.

        Raises
        ------
        IncompatibleError
            For a reducer, and for a selector that does not pick tokens one by one.
        """
        if self.reducer is not None:
            raise IncompatibleError(
                f"with keep={rule} the number of tokens depends on the picture, but the reducer "
                f"{self.reducer.name!r} makes a number that is given; use no reducer, or give a number"
            )
        if not self.selector.nested(scored):
            lookup, given = default_lookup(), "with" if scored else "without"
            able = [name for name in lookup.names("selector") if _picks_one_by_one(lookup, name, scored)]
            raise IncompatibleError(
                f"keep={rule} needs a selector that picks tokens one by one, whatever the budget, and "
                f"{self.selector.name!r} {given} scores does not. {given.capitalize()} scores these do: "
                f"{', '.join(able)}. Choose one of them, or give keep= as a number"
            )

    def score(self, tokens: VisualTokens) -> Tensor | None:
        """Return scores of an image or a stack, (N,) or (B, N), or None if the scorer has no preference."""
        with errors_attributed(self.scorer, tokens):
            scores = self.scorer.score(tokens)
        check_scores(self.scorer, scores, tokens)
        return scores

    def choose(
        self, tokens: VisualTokens, scores: Tensor | None, keep: int, adjust: Adjust | None = None
    ) -> Selection:
        """Select `keep` rows (or fewer, if adaptive) among tokens that all compete with each other.

        Parameters
        ----------
        adjust
            Changes which tokens are kept; called before the reducer, or after one that adds rows.
        """
        reducer = None if keep == len(tokens) else self.reducer  # no token is dropped, none to reduce
        n_selected = keep if reducer is None else reducer.n_selected(keep, len(tokens))
        selection = self.select(tokens, scores, n_selected)
        if adjust is not None and n_selected == keep:
            selection = adjust(selection)
        if reducer is not None:
            with errors_attributed(reducer, tokens):
                selection = reducer.reduce(tokens, selection, keep)
            check_selection(reducer, selection, keep, tokens)
        return selection if adjust is None or n_selected == keep else adjust(selection)

    def select(self, tokens: VisualTokens, scores: Tensor | None, keep: int) -> Selection:
        """Select `keep` tokens (or fewer, if adaptive), without the reducer."""
        with errors_attributed(self.selector, tokens):
            selection = unvalidated_select(self.selector)(tokens, scores, keep)
        check_selection(
            self.selector,
            selection,
            keep,
            tokens,
            rows_finite=scores is not None,
            adaptive=self.selector.adaptive,
        )
        return dataclasses.replace(selection, scores=scores)


def _picks_one_by_one(lookup: StrategyLookup, name: str, scored: bool) -> bool:
    selector: Selector = lookup.strategy("selector", name)
    return selector.nested(scored)
