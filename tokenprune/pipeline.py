# SPDX-License-Identifier: Apache-2.0
"""The steps of a method as objects: score, select, reduce; the output of each is validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .checks import check_scores, check_selection, errors_attributed
from .errors import IncompatibleError
from .select_input import unvalidated_select
from .selection import Selection
from .strategy import Reducer, Scorer, Selector, Strategy
from .tokens import VisualTokens

Cover = Callable[[Selection], Selection]


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

    def score(self, tokens: VisualTokens) -> Tensor | None:
        """Return scores of an image or a stack, (N,) or (B, N), or None if the scorer has no preference."""
        with errors_attributed(self.scorer, tokens):
            scores = self.scorer.score(tokens)
        check_scores(self.scorer, scores, tokens)
        return scores

    def choose(
        self, tokens: VisualTokens, scores: Tensor | None, keep: int, cover: Cover | None = None
    ) -> Selection:
        """Select `keep` rows (or fewer, if adaptive) among tokens that all compete with each other.

        Parameters
        ----------
        cover
            Changes which tokens are kept; called before the reducer, or after one that adds rows.
        """
        reducer = None if keep == len(tokens) else self.reducer  # no token is dropped, none to reduce
        n_selected = keep if reducer is None else reducer.n_selected(keep, len(tokens))
        selection = self.select(tokens, scores, n_selected)
        if cover is not None and n_selected == keep:
            selection = cover(selection)
        if reducer is not None:
            with errors_attributed(reducer, tokens):
                selection = reducer.reduce(tokens, selection, keep)
            check_selection(reducer, selection, keep, tokens)
        return selection if cover is None or n_selected == keep else cover(selection)

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
