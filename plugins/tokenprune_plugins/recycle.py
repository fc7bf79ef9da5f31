# SPDX-License-Identifier: Apache-2.0
"""Recycling: merge the best-scored dropped tokens into a few mean rows.

The third step of SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417): density-peak clusters, averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import top_slots

SHARE = 0.3  # share of the dropped tokens that is recycled
PER_CLUSTER = 10  # recycled tokens per new row


@dataclass(frozen=True)
class RecycleReducer(tokenprune.Reducer):
    """Appends means of the best-scored dropped tokens to the selected ones.

    Of d dropped tokens, m = int(0.3 d) + 1 are recycled into int(m / 10) + 1 rows. The budget includes the
    new rows. If it is too small for this rule, one token is kept and all other rows are recycled ones.
    """

    name: ClassVar[str] = "recycle"

    def n_selected(self, keep: int, n: int) -> int:
        """Return how many of `n` tokens to select so that `keep` rows remain, recycled rows included."""
        return next((k for k in range(keep - 1, 0, -1) if k + n_recycled_rows(n - k) <= keep), 1)

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return [selected tokens, recycled rows]."""
        n_new = keep - len(selection)
        if n_new == 0:
            return selection
        is_dropped = torch.ones(len(tokens), dtype=torch.bool, device=selection.indices.device)
        is_dropped[selection.indices] = False
        dropped = is_dropped.nonzero().squeeze(-1)
        if selection.scores is not None:
            dropped = dropped[top_slots(selection.scores[dropped], n_recycled(len(dropped)))]
        rows = density_peak_means(tokens.features[dropped], n_new).to(tokens.features.dtype)
        return tokenprune.Selection(
            indices=torch.cat([selection.indices, selection.indices.new_full((n_new,), -1)]),
            features=torch.cat([tokens.features[selection.indices], rows]),
            scores=selection.scores,
        )


def n_recycled(n_dropped: int) -> int:
    """Return how many of the dropped tokens are recycled."""
    return int(SHARE * n_dropped) + 1


def n_recycled_rows(n_dropped: int) -> int:
    """Return how many rows the recycled tokens are merged into."""
    return n_recycled(n_dropped) // PER_CLUSTER + 1


def density_peak_means(rows: Tensor, n_clusters: int) -> Tensor:
    """Cluster rows (M, D) by density peaks and return the clusters' means (C, D), in float32.

    With distances scaled by 1 / sqrt(D): density = exp(-mean squared distance to the C nearest rows, itself
    included); separation = distance to the nearest denser row (the largest distance if there is none). The
    C rows of largest density x separation are the centres, best first; other rows join the nearest centre.
    """
    rows = rows.float()
    without_matmul = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(rows, rows, compute_mode=without_matmul) / rows.shape[-1] ** 0.5
    density = (-distance.sort(-1).values[:, :n_clusters].square().mean(-1)).exp()
    is_denser = density.unsqueeze(0) > density.unsqueeze(1)
    separation = distance.where(is_denser, distance.max()).amin(-1)
    centres = (density * separation).topk(n_clusters).indices  # takes both of two equal rows, as official
    cluster = distance[:, centres].argmin(-1)
    cluster[centres] = torch.arange(n_clusters, device=rows.device)
    members = torch.nn.functional.one_hot(cluster, n_clusters).to(rows.dtype)  # (M, C)
    return members.mT @ rows / members.sum(0).unsqueeze(-1)


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Return the reducer class."""
    return [RecycleReducer]
