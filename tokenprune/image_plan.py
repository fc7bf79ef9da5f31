# SPDX-License-Identifier: Apache-2.0
"""Plan what a cut does to one image before any token is scored, by the same rule at every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .cut import Cut


class LeftAlone(Enum):
    """Why an image keeps all its tokens."""

    TOO_FEW_TOKENS = "fewer than {min_tokens} tokens"
    HIDDEN = "hidden by the attention mask"
    NOTHING_TO_CUT = "budget not below N"

    def note(self, cut: Cut) -> str:
        """Return the reason as a string, for `ImageReport.note`."""
        return self.value.format(min_tokens=cut.min_tokens)


@dataclass(frozen=True)
class ImagePlan:
    """Number of rows left of an image from each layer on, or the reason why it is left alone.

    `cuts` is empty if the image is left alone. A cut without layers has the key 0 and the rows of the budget;
    `Method.n_keep` also accounts for tiles and newline tokens. An adaptive method, or a rule, keeps at most
    these rows, which may be all.
    """

    cuts: Mapping[int, int] = field(default_factory=dict)
    left_alone: LeftAlone | None = None


def plan_image(cut: Cut, n: int, n_layers: int = 0, hidden: bool = False) -> ImagePlan:
    """Plan a cut of an image of `n` tokens.

    Parameters
    ----------
    n_layers
        Layers of the model or tower that is cut, at the stages that have layers.
    hidden
        Whether the attention mask hides a token of the image.

    Raises
    ------
    BudgetError, IncompatibleError
        When the schedule cannot meet the budget, or the model has too few layers.
    """
    if n < cut.min_tokens:
        return ImagePlan(left_alone=LeftAlone.TOO_FEW_TOKENS)
    if hidden:
        return ImagePlan(left_alone=LeftAlone.HIDDEN)
    method, rows = cut.method, cut.budget.rows(n)
    if method.schedule is not None and method.stage != "projector":
        if cut.budget.rule is not None:  # of a single cut; see `Method.check_rule`
            return ImagePlan(dict.fromkeys(method.schedule.boundaries(n_layers), rows))
        cuts = method.schedule.cuts(rows, n, n_layers, method.budget)
        if not cuts and method.adaptive:  # it may keep fewer
            cuts = dict.fromkeys(method.schedule.boundaries(n_layers), n)
    else:
        cuts = {0: rows} if rows < n or cut.adaptive else {}
    return ImagePlan(cuts) if cuts else ImagePlan(left_alone=LeftAlone.NOTHING_TO_CUT)
