# SPDX-License-Identifier: Apache-2.0
"""VisionZip: keep what the CLS row looks at, merge the rest. Yang et al., CVPR 2025, arXiv 2412.04467.

Dominant rows are the CLS row itself and the patches with the highest CLS attention. The other patches are
merged into contextual rows around evenly spaced targets, by the cosine of their keys. All of it happens
before the projector, which is then applied to the new rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import unit_rows


@dataclass(frozen=True)
class VisionZipReducer(tokenprune.Reducer):
    """Adds the CLS row before the chosen patches and contextual rows after them.

    Parameters
    ----------
    dominant
        D, rows that stay as they are; the CLS row counts as one of them, as in the official code.
    contextual
        Merged rows. Where neither is given: round(5 keep / 32), the paper's split of 32 into 27 + 5.
    """

    name: ClassVar[str] = "visionzip"
    dominant: int | None = None
    contextual: int | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The tower's rows and keys, and the way from there to the language model."""
        return frozenset({"pre_features", "cls_hidden", "key_metric", "projector"})

    def split(self, keep: int) -> tuple[int, int]:
        """Return (dominant, contextual) rows of a budget; a single row is a patch, without CLS.

        Raises
        ------
        BudgetError
            When the options do not make up the budget, or leave no patch.
        """
        if self.contextual is not None:
            contextual = self.contextual
        else:
            contextual = round(5 * keep / 32) if self.dominant is None else keep - self.dominant
        dominant = keep - contextual if self.dominant is None else self.dominant
        if dominant + contextual != keep or contextual < 0:
            raise tokenprune.BudgetError(
                f"dominant={dominant} and contextual={contextual} rows do not make up keep={keep}"
            )
        if dominant < 2 and keep > 1:
            raise tokenprune.BudgetError(
                f"keep={keep} with {contextual} contextual rows leaves no patch beside the CLS row; "
                f"give keep={contextual + 2} or more"
            )
        return dominant, contextual

    def n_selected(self, keep: int, n: int) -> int:
        """Patches among the dominant rows."""
        return max(1, self.split(keep)[0] - 1)

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return [CLS, chosen patches in their order, contextual rows]."""
        if keep == len(selection):
            return selection
        rest = torch.ones(len(tokens), dtype=torch.bool, device=selection.indices.device)
        rest[selection.indices] = False
        hidden = tokens.signal("pre_features").float()
        metric = tokens.signal("key_metric").float()
        merged = merge_contextual(hidden[rest], metric[rest], self.split(keep)[1])
        new = tokens.projector(torch.cat([tokens.signal("cls_hidden").float(), merged]))
        new = new.to(tokens.features.dtype)
        mark = selection.indices.new_full((len(new),), -1)
        return tokenprune.Selection(
            indices=torch.cat([mark[:1], selection.indices, mark[1:]]),
            features=torch.cat([new[:1], tokens.features[selection.indices], new[1:]]),
            scores=selection.scores,
        )


def merge_contextual(hidden: Tensor, metric: Tensor, n_targets: int) -> Tensor:
    """Merge rows (R, D_v) into (C, D_v) around C evenly spaced targets, by cosine of `metric` (R, d_head).

    A merged row is its target **plus** the mean of the rows assigned to it, as the official code has it (the
    paper speaks of merging); a target nobody was assigned to stays alone.
    """
    if n_targets == 0:
        return hidden[:0]
    step = max(1, len(hidden) // n_targets)
    is_target = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    is_target[: step * n_targets : step] = True
    unit = unit_rows(metric)
    nearest = (unit[~is_target] @ unit[is_target].mT).argmax(-1)
    assigned = torch.nn.functional.one_hot(nearest, n_targets).to(hidden.dtype)  # (R - C, C)
    mean = assigned.mT @ hidden[~is_target] / assigned.sum(0).clamp(min=1).unsqueeze(-1)
    return hidden[is_target] + mean


@tokenprune.hookimpl
def tokenprune_reducers() -> list[type[tokenprune.Reducer]]:
    """Deliver the reducer."""
    return [VisionZipReducer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Deliver the method."""
    return [
        tokenprune.Method(
            name="visionzip",
            title="VisionZip: CLS attention, the rest merged",
            scorer="attention",
            selector="topk",
            reducer="visionzip",
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.04467 (CVPR 2025)",
            deviations=(
                "scores and merging in float32; the official code works in the model's precision",
                "a budget of one row keeps the best patch; the official code would keep the CLS row",
            ),
        )
    ]
