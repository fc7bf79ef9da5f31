# SPDX-License-Identifier: Apache-2.0
"""Masks for the kept rows of models with bidirectional image attention (Gemma 3 and 4, PaliGemma).

Such a model makes its own masks for the whole prompt, one for each kind of layer. Tokens that attend to each
other form blocks, which are read from these masks; the masks of the kept rows are then created with the same
blocks.
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


def block_numbers(mask: Any, start: int, n_new: int, slides: bool) -> Tensor | None:
    """Block index of each new token, -1 for tokens in no block, (1 or B, L); None if there are no blocks.

    Tokens that attend to each other belong to one block, next to each other or not. In a mask that slides,
    which may hide the ends of a block from each other, only neighbours are compared. `mask` may be of any
    kind; only four-dimensional masks can have blocks. `start` is its column of the first new token.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return None
    visible = _visible(mask, start, n_new)
    if not slides:
        mutual = visible & visible.mT
        together = mutual | torch.eye(n_new, dtype=torch.bool, device=mask.device)
        number = together.int().argmax(-1)  # the first token of a token's block
        in_block = (number.unsqueeze(-1) == number.unsqueeze(-2)).sum(-1) > 1
        return torch.where(in_block, number, -1) if bool(in_block.any()) else None
    joined = visible.diagonal(1, -2, -1) & visible.diagonal(-1, -2, -1)  # (B, L - 1): a token and the next
    if not bool(joined.any()):
        return None
    number = torch.nn.functional.pad((~joined).cumsum(-1), (1, 0))
    in_block = torch.nn.functional.pad(joined, (1, 0)) | torch.nn.functional.pad(joined, (0, 1))
    return torch.where(in_block, number, -1)


def ends_at_window(mask: Tensor, start: int, blocks: Tensor, window: int) -> bool:
    """Whether tokens of a block attend to each other within the window only, read from a mask.

    False if no block is longer than the window: then it makes no difference.
    """
    far = _beyond_window(blocks, window)
    return bool(far.any()) and not bool((_visible(mask, start, blocks.shape[-1]) & far).any())


def _beyond_window(blocks: Tensor, window: int) -> Tensor:
    """Pairs of tokens of one block of which the first lies `window` or more after the second, (B, L, L)."""
    places = torch.arange(blocks.shape[-1], device=blocks.device)
    together = (blocks[..., :, None] == blocks[..., None, :]) & (blocks >= 0)[..., None]
    return together & (places[:, None] - places >= window)


def _visible(mask: Tensor, start: int, n_new: int) -> Tensor:
    """Which new tokens attend to which new tokens, (1 or B, L, L)."""
    square = mask[:, 0, :, start : start + n_new]
    return square if square.dtype == torch.bool else square == 0


def masks_of_kept(
    makers: MaskMakers, config: Any, call: Call, made: Any, flat: Tensor | None, plan: RowPlan | None
) -> Any:
    """Return the mask for the language model: `flat`, or masks with the blocks of `made`.

    Parameters
    ----------
    config
        The language model's configuration.
    made
        The mask that the model made for all L tokens, or one for each kind of layer.
    flat
        The two-dimensional mask over the stored and the kept tokens; None if all are visible.
    plan
        Which rows are kept; None if all are.
    """
    if call.n_new == 1:  # a decoding step has no blocks, and must not synchronise
        return flat
    masks = made if isinstance(made, dict) else {stock.FULL: made}
    starts = {kind: _first_column(call, kind) for kind in masks}
    read = {
        kind: block_numbers(mask, starts[kind], call.n_new, kind == stock.SLIDING)
        for kind, mask in masks.items()
    }
    blocks = {kind: numbers for kind, numbers in read.items() if numbers is not None}
    if stock.FULL in blocks:  # one reading for all kinds: windows may hide the ends of a block
        blocks = dict.fromkeys(blocks, blocks[stock.FULL])
    numbering = call.numbering(-1)
    if not blocks and (numbering is None or made is None):
        return flat
    unknown = sorted(set(masks) - {stock.FULL, stock.SLIDING})
    if unknown:
        raise UnsupportedCallError(
            "bidirectional image tokens or packed sequences under masks of the kind "
            f"{', '.join(unknown)} are not supported"
        )
    embeds, window = call.entered, stock.window_of(config)
    assert embeds is not None
    kept = {kind: _of_kept(numbers, call, plan) for kind, numbers in blocks.items()}
    remade = {}
    for kind, mask in masks.items():
        if kind == stock.SLIDING and kind in blocks and window is not None:
            if numbering is not None:
                _refuse_long_blocks(kept[kind], window)
            elif ends_at_window(mask, starts[kind], blocks[kind], window):
                remade[kind] = makers.make_windowed(config, embeds, flat, call.kv, kept[kind], window)
                continue
        remade[kind] = makers.make(kind, config, embeds, flat, call.kv, numbering, kept.get(kind))
    return remade if isinstance(made, dict) else remade[stock.FULL]


def _refuse_long_blocks(kept: Tensor, window: int) -> None:
    """Refuse packed sequences in which more tokens of an image are kept than a window holds.

    Up to a window, tokens of an image attend to each other anyway; beyond it the mask functions of
    transformers confuse the blocks of packed sequences.
    """
    if bool(_beyond_window(kept, window).any()):
        raise UnsupportedCallError(
            f"more than {window} tokens of an image are kept, the window of this model's sliding layers, in "
            "a row of packed sequences; keep fewer tokens, or pass one sequence in each row of the batch"
        )


def _first_column(call: Call, kind: str) -> int:
    """Column of the first new token in the mask of a kind of layer."""
    index = stock.first_layer_of_kind(call.kv, kind)
    if index is None:
        return 0
    return call.n_seen - stock.mask_sizes(stock.layers_of(call.kv)[index], call.n_new)[1]


def _of_kept(blocks: Tensor, call: Call, plan: RowPlan | None) -> Tensor:
    """Blocks of all tokens up to the last kept one, (B, n); -1 for those that came before this call."""
    assert call.entered is not None
    blocks = blocks.expand(len(call.entered), -1)
    if plan is not None:
        blocks = plan.gather(blocks, -1)
    return torch.nn.functional.pad(blocks, (call.n_seen, 0), value=-1)
