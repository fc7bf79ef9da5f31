# SPDX-License-Identifier: Apache-2.0
"""VisionZip: keep what the CLS token attends to, merge the rest. Yang et al., CVPR 2025, arXiv 2412.04467.

Dominant rows are the CLS row itself and the patches with the highest CLS attention. The other patches are
merged into contextual rows around evenly spaced targets, by the cosine of their keys. All of this happens
before the projector, which is then applied to the new rows. For towers without a CLS token (Qwen2.5-VL) the
dominant rows are the tokens that receive most attention, and the projector's output rows are merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune
from tokenprune.functional import unit_rows

from .attention import AttentionScorer

SOURCES = ("cls", "received")


@dataclass(frozen=True)
class VisionZipReducer(tokenprune.Reducer):
    """Adds the CLS row before the selected patches and contextual rows after them.

    Parameters
    ----------
    dominant
        D, the number of rows kept as they are, including the CLS row, as in the official code.
    contextual
        Number of merged rows. Default if `dominant` is None too: round(5 keep / 32), the paper's split of 32
        into 27 + 5; with `source="received"`, 1/20 of the image's tokens, as in the official Qwen2.5-VL code.
    source
        `"cls"`, or `"received"` for towers without a CLS token: no CLS row, and merging after the projector.
    """

    name: ClassVar[str] = "visionzip"
    dominant: int | None = None
    contextual: int | None = None
    source: str = "cls"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise tokenprune.OptionError(
                f"visionzip's source must be one of {', '.join(map(repr, SOURCES))}, got {self.source!r}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Keys; with `source="cls"` also the tower's rows, its CLS row and the projector."""
        if self.source == "received":
            return frozenset({"key_metric"})
        return frozenset({"pre_features", "cls_hidden", "key_metric", "projector"})

    def split(self, keep: int, n: int) -> tuple[int, int]:
        """Split a budget for `n` tokens into (dominant, contextual) rows; a single row is a patch, not CLS.

        Raises
        ------
        BudgetError
            If the options do not add up to the budget, or leave no patch.
        """
        if self.contextual is not None:
            contextual = self.contextual
        elif self.dominant is not None:
            contextual = keep - self.dominant
        else:
            contextual = round(5 * keep / 32) if self.source == "cls" else min(max(1, n // 20), keep - 1)
        dominant = keep - contextual if self.dominant is None else self.dominant
        if dominant + contextual != keep or contextual < 0:
            raise tokenprune.BudgetError(
                f"dominant={dominant} and contextual={contextual} rows do not add up to keep={keep}"
            )
        minimum = 2 if self.source == "cls" else 1
        if dominant < minimum and keep > 1:
            beside_cls = " beside the CLS row" if self.source == "cls" else ""
            remedy = f"keep={contextual + minimum}" if self.dominant is None else f"dominant={minimum}"
            raise tokenprune.BudgetError(
                f"keep={keep} with {contextual} contextual rows leaves no patch{beside_cls}; "
                f"use {remedy} or more"
            )
        return dominant, contextual

    def n_selected(self, keep: int, n: int) -> int:
        """Return the number of patches among the dominant rows."""
        return max(1, self.split(keep, n)[0] - (self.source == "cls"))

    def reduce(
        self, tokens: tokenprune.VisualTokens, selection: tokenprune.Selection, keep: int
    ) -> tokenprune.Selection:
        """Return [CLS row if there is one, selected patches in their order, contextual rows]."""
        if keep == len(selection):
            return selection
        is_rest = torch.ones(len(tokens), dtype=torch.bool, device=selection.indices.device)
        is_rest[selection.indices] = False
        with_cls = self.source == "cls"
        hidden = (tokens.signal("pre_features") if with_cls else tokens.features).float()
        metric = tokens.signal("key_metric").float()
        new = merge_contextual(hidden[is_rest], metric[is_rest], self.split(keep, len(tokens))[1])
        if with_cls:
            cls_row = tokens.signal("cls_hidden")[:1].float()  # of the base view, if tiles compete
            new = tokens.projector(torch.cat([cls_row, new]))
        new = new.to(tokens.features.dtype)
        new_slots, n_front = selection.indices.new_full((len(new),), -1), int(with_cls)
        return tokenprune.Selection(
            indices=torch.cat([new_slots[:n_front], selection.indices, new_slots[n_front:]]),
            features=torch.cat([new[:n_front], tokens.features[selection.indices], new[n_front:]]),
            scores=selection.scores,
        )


def merge_contextual(hidden: Tensor, metric: Tensor, n_targets: int) -> Tensor:
    """Merge rows (R, D_v) into (C, D_v) around C evenly spaced targets, by cosine of `metric` (R, d_head).

    A merged row is its target **plus** the mean of the rows assigned to it, as in the official code (the
    paper only says "merge"); a target to which no row is assigned is unchanged.
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
    """Return the reducer class."""
    return [VisionZipReducer]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method, and its variant for towers without a CLS token."""
    in_float32 = "scores and merging in float32; the official code works in the model's precision"
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
                in_float32,
                "with a budget of one row the best patch is kept; the official code would keep the CLS row",
            ),
        ),
        tokenprune.Method(
            name="visionzip-received",
            variant_of="visionzip",
            title="VisionZip without CLS: attention received, the rest merged",
            scorer=AttentionScorer(source="received"),
            selector="topk",
            reducer=VisionZipReducer(source="received"),
            scope="tile",
            newlines="drop",
            paper="arXiv 2412.04467 (CVPR 2025)",
            deviations=(
                in_float32,
                "at least one row that is not merged is kept, whatever the budget",
                "cuts before the language model; the official Qwen2.5-VL code cuts inside it",
            ),
        ),
    ]
