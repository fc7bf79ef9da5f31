# SPDX-License-Identifier: Apache-2.0
"""PruneSID: groups of tokens by principal component, similar ones suppressed in each. Fang et al., ICLR 2026.

arXiv 2603.09480. Each group has a share of the budget in proportion to the tokens left after suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import float64_device, unit_rows

from .group_quota import group_quotas
from .pca_groups import exact_loadings, randomized_loadings
from .similar_groups import merged_threshold, ranked, tower_threshold

SOURCES = ("tower", "merged")
DECOMPOSITIONS = ("exact", "randomized")


@dataclass(frozen=True)
class PruneSidSelector(tokenprune.Selector):
    """Groups tokens by principal component, and selects from each those that are not similar to better ones.

    Within a group tokens are ranked by score, without scores by their loading on the group's component.

    Parameters
    ----------
    source
        `"tower"`: groups and similarities of the rows given to the projector, as in the official LLaVA code.
        `"merged"`: those of the rows that enter the language model, with at least four groups, as in the
        official Qwen2-VL code.
    reserved
        Rows that a reducer adds: the official budget is T = keep + reserved.
    pca
        `"exact"`, or `"randomized"` as in the official code, where the groups depend on the `seed`.
    seed
        Seed of the randomised decomposition.
    """

    name: ClassVar[str] = "prunesid"
    batched: ClassVar[bool] = True
    by_position: ClassVar[bool] = True
    source: str = "tower"
    reserved: int = 0
    pca: str = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, known in (("source", self.source, SOURCES), ("pca", self.pca, DECOMPOSITIONS)):
            if value not in known:
                listed = " or ".join(map(repr, known))
                raise tokenprune.OptionError(f"prunesid's {option} must be {listed}, got {value!r}")
        if self.reserved < 0:
            raise tokenprune.OptionError(f"reserved must be at least 0, got {self.reserved}")

    @property
    def needs(self) -> frozenset[str]:
        """With `source="tower"`, the rows given to the projector."""
        return frozenset({"pre_features"} if self.source == "tower" else ())

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return `keep` tokens, picked group by group."""
        rows = tokens.features
        if self.source == "tower":
            rows = tokens.signal("pre_features").flatten(rows.ndim - 1).to(rows.device)
        if not tokens.is_batch:
            return tokenprune.Selection.from_order(self._pick(rows, scores, keep))
        of_images = [None] * len(rows) if scores is None else scores
        picks = [self._pick(image, score, keep) for image, score in zip(rows, of_images, strict=True)]
        return tokenprune.Selection.from_order(torch.stack(picks))

    def _pick(self, rows: Tensor, scores: Tensor | None, keep: int) -> Tensor:
        """Return the picks in one image, (N, D) -> (keep,)."""
        device, place = rows.device, float64_device(rows.device)
        rows, scores = rows.to(place), None if scores is None else scores.to(place)
        total, is_merged = keep + self.reserved, self.source == "merged"
        q = max(total // 4, 4 if is_merged else 1)
        loadings = exact_loadings(rows, q) if self.pca == "exact" else randomized_loadings(rows, q, self.seed)
        unit = unit_rows(rows.detach())
        limit = merged_threshold(unit, total) if is_merged else tower_threshold(unit, total)
        largest, groups = loadings.max(-1)
        ranking = ranked(unit, groups, largest if scores is None else scores, limit, loadings.shape[1])
        shares = group_quotas(ranking.survivors, ranking.sizes, keep, self.reserved)
        return ranking.first(shares).to(device)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [PruneSidSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and its variant for towers without a CLS token."""
    in_common = (
        "the decomposition is exact; the official one is randomised, from the global random state "
        "(pca='randomized')",
        "among groups with equally many tokens left the first is filled up first; officially undefined",
        "any budget works; officially T < 4 gives no group, and T > N does not end",
    )
    return [
        tokenprune.Method(
            name="prunesid",
            title="PruneSID: groups by principal component, similar tokens suppressed",
            scorer="attention",
            selector=PruneSidSelector(reserved=1),
            reducer="cls-row",
            scope="tile",
            newlines="drop",
            paper="arXiv 2603.09480 (ICLR 2026)",
            deviations=(
                *in_common,
                "kept tokens are in the order of the image; officially group by group, and on LLaVA-NeXT in "
                "the places of others",
                "with a budget of one row the best patch is kept; the official code would keep the CLS row",
            ),
        ),
        tokenprune.Method(
            name="prunesid-merged",
            variant_of="prunesid",
            title="PruneSID without CLS: groups of the projector's output",
            scorer="uniform",
            selector=PruneSidSelector(source="merged"),
            scope="tile",
            newlines="drop",
            paper="arXiv 2603.09480 (ICLR 2026)",
            deviations=(
                *in_common,
                "kept tokens are in the order of the image; officially group by group if at most 150",
                "`keep` is the number of tokens kept; the official code keeps max(round(N T / 576), 16)",
            ),
        ),
    ]
