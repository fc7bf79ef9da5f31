# SPDX-License-Identifier: Apache-2.0
"""The steps of a method as objects: score, select, reduce; the output of each is validated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from .checks import check_scores, check_selection, errors_attributed
from .errors import IncompatibleError
from .select_input import unvalidated_select
from .selection import Selection
from .strategy import Reducer, Scorer, Selector, Strategy
from .tokens import VisualTokens


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

    def choose(self, tokens: VisualTokens, scores: Tensor | None, keep: int) -> Selection:
        """Select `keep` rows (or fewer, if adaptive) among tokens that all compete with each other."""
        reducer = None if keep == len(tokens) else self.reducer  # no token is dropped, none to reduce
        n_selected = keep if reducer is None else reducer.n_selected(keep, len(tokens))
        with errors_attributed(self.selector, tokens):
            selection = unvalidated_select(self.selector)(tokens, scores, n_selected)
        check_selection(
            self.selector,
            selection,
            n_selected,
            tokens,
            rows_finite=scores is not None,
            adaptive=self.selector.adaptive,
        )
        selection = dataclasses.replace(selection, scores=scores)
        if reducer is not None:
            with errors_attributed(reducer, tokens):
                selection = reducer.reduce(tokens, selection, keep)
            check_selection(reducer, selection, keep, tokens)
        return selection
