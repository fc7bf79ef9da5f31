# SPDX-License-Identifier: Apache-2.0
"""Masks for the kept rows of models with bidirectional image attention (Gemma 3, PaliGemma).

Such a model makes its own masks for the whole prompt. Tokens that attend to each other form blocks, which are
read from its mask; the mask of the kept rows is then created with the same blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError

from . import stock
from .call import Call
from .plan import RowPlan
from .resolved import MaskMakers


def block_numbers(mask: Any, stored: int, n_new: int) -> Tensor | None:
    """Block index of each new token, -1 for tokens in no block, (1 or B, L); None if there are no blocks.

    `mask` is the language model's argument, of any kind; only four-dimensional masks can have blocks.
    """
    mask = stock.one_mask(mask)
    if not isinstance(mask, Tensor) or mask.ndim != 4 or n_new == 1:
        return None
    square = mask[:, 0, :, stored : stored + n_new]  # (B, L, L)
    visible = square if square.dtype == torch.bool else square == 0
    mutual = visible & visible.mT
    alone = mutual.sum(-1) < 2
    if bool(alone.all()):
        return None
    return torch.where(alone, -1, mutual.int().argmax(-1))


def masks_of_kept(
    makers: MaskMakers, config: Any, call: Call, made: Any, flat: Tensor | None, plan: RowPlan | None
) -> Any:
    """Return the mask for the language model: `flat`, or masks with the blocks of `made`.

    Parameters
    ----------
    config
        The language model's configuration.
    made
        The mask that the model made for all L tokens.
    flat
        The two-dimensional mask over the stored and the kept tokens; None if all are visible.
    plan
        Which rows are kept; None if all are.
    """
    blocks, numbering = block_numbers(made, call.stored_at(call.counting), call.n_new), call.numbering(-1)
    if blocks is None and (numbering is None or made is None):
        return flat
    embeds = call.entered
    assert embeds is not None
    if blocks is not None:
        blocks = blocks.expand(len(embeds), -1)
        if plan is not None:
            blocks = plan.gather(blocks, -1)
        blocks = torch.nn.functional.pad(blocks, (call.n_seen, 0), value=-1)
    kinds = list(made) if isinstance(made, dict) else [stock.FULL]
    unknown = sorted(set(kinds) - set(stock.MASKS))
    if unknown:
        raise UnsupportedCallError(
            f"bidirectional image tokens under masks of the kind {', '.join(unknown)} are not supported"
        )
    masks = {kind: makers.make(kind, config, embeds, flat, call.kv, numbering, blocks) for kind in kinds}
    return masks if isinstance(made, dict) else masks[stock.FULL]
