# SPDX-License-Identifier: Apache-2.0
"""Masks of models whose image tokens see each other both ways (Gemma 3, PaliGemma), for the rows that stay.

Such a model makes its masks itself, for the whole prompt. Tokens that see each other form blocks: those are
read off its mask, and the mask of the rows that stay is made anew, with the same blocks.
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
    """Number of the block each new token belongs to, -1 for tokens alone, (1 or B, L); None: no blocks.

    `mask` is whatever the language model was handed; only masks of four dimensions can have blocks.
    """
    mask = stock.one_mask(mask)
    if not isinstance(mask, Tensor) or mask.ndim != 4 or n_new == 1:
        return None
    square = mask[:, 0, :, stored : stored + n_new]  # (B, L, L)
    sees = square if square.dtype == torch.bool else square == 0
    together = sees & sees.mT
    alone = together.sum(-1) < 2
    if bool(alone.all()):
        return None
    return torch.where(alone, -1, together.int().argmax(-1))


def own_masks(
    makers: MaskMakers, config: Any, call: Call, made: Any, flat: Tensor | None, plan: RowPlan | None
) -> Any:
    """What the language model is to be passed: `flat`, the padding, or masks with the blocks of `made`.

    Parameters
    ----------
    config
        The language model's.
    made
        The mask the model made for all L tokens.
    flat
        The two-dimensional mask over what the cache stores and the rows that stay; None: all visible.
    plan
        Which rows stay; None: all.
    """
    blocks, numbering = block_numbers(made, call.stored_at(0), call.n_new), call.numbering(-1)
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
            f"image tokens that see each other under masks of the kind {', '.join(unknown)} are not supported"
        )
    masks = {kind: makers.make(kind, config, embeds, flat, call.kv, numbering, blocks) for kind in kinds}
    return masks if isinstance(made, dict) else masks[stock.FULL]
