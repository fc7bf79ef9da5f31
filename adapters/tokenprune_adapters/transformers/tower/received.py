# SPDX-License-Identifier: Apache-2.0
"""The signal `tower_received`: attention that each token receives in some blocks of the vision tower.

What the rows of a block receive is computed when its attention runs, and only that is kept: a number for each
row, whatever the number of blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokenprune import IncompatibleError, UnsupportedCallError
from tokenprune.functional import MAP_BYTES, mean_attention
from tokenprune.precision import without_autocast
from tokenprune.towers.checks import DEPTH, RECEIVED
from tokenprune.towers.image import TowerImage, on_device

from .. import receipts, stock
from ..call import untraced
from ..exporting import is_exporting
from ..tap import AttentionFunctionTap
from .parts import TowerParts

if TYPE_CHECKING:
    from ..encoded import Encoded
    from ..facts import VisionLanguageFacts


class ReceivedTap(AttentionFunctionTap):
    """Calls `note` with what each row receives, (B, n), whenever an attention module attends."""

    def __init__(self, attention: Any, note: Callable[[Tensor], None]) -> None:
        self._note, self._sum_up = note, untraced(_sum_up)
        super().__init__(attention, lambda query, key, scaling: None)

    def __call__(  # noqa: D102  (the class says it)
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
    ) -> Any:
        if not is_exporting():  # nothing is dropped then
            self._note(self._sum_up(query, key, mask, options))
        return super().__call__(module, query, key, value, *mask, **options)


def _sum_up(query: Tensor, key: Tensor, mask: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """What each row receives in a call of an attention function with these arguments."""
    scaling, borders = stock.scaling_of(options), stock.segments_of(options)
    with torch.no_grad(), without_autocast(query.device):
        return received_sums(query, key, scaling, stock.mask_of(mask, options), borders)


def received_sums(
    query: Tensor, key: Tensor, scaling: float | None, mask: Tensor | None, borders: Tensor | None
) -> Tensor:
    """Attention that each row receives, mean over heads, sum over queries, (B, n) in float32.

    Parameters
    ----------
    query, key
        (B, H, n, d) and (B, H_kv, n, d); each key head is shared by H / H_kv query heads.
    mask
        (B or 1, H or 1, n, n), True or 0 where a query sees a key. A row that no query sees is padding, and
        counts as no query either.
    borders
        Borders of the segments whose rows see each other; None for a single one.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    if mask is not None:
        masks = mask.expand(len(query), *mask.shape[1:])
        rows = zip(query, key, masks, strict=True)
        return torch.stack([_received_within(q, k, scaling, allowed) for q, k, allowed in rows])
    sizes = [key.shape[2]] if borders is None else [b - a for a, b in pairwise(borders.tolist()) if b > a]
    received = []
    for q, k in zip(query, key, strict=True):
        parts = zip(torch.split(q, sizes, 1), torch.split(k, sizes, 1), strict=True)
        received.append(torch.cat([mean_attention(*part, scaling) * part[0].shape[1] for part in parts]))
    return torch.stack(received)


def _received_within(query: Tensor, key: Tensor, scaling: float, mask: Tensor) -> Tensor:
    """The same for a sequence (H, n, d) and its mask (H or 1, n, n), (n,)."""
    heads, n, _ = key.shape
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
    is_seen = (mask > torch.finfo(mask.dtype).min / 2).any(0).any(0)
    received = torch.zeros(n, device=key.device)
    block_size = max(1, MAP_BYTES // (4 * heads * n))
    rows = query.float(), mask.expand(-1, n, -1), is_seen[None, :, None]
    for block, of_block, is_query in zip(*(torch.split(of, block_size, 1) for of in rows), strict=True):
        looks = (block @ key.float().mT * scaling + of_block).softmax(-1)
        received += looks.masked_fill(~is_query, 0).sum((0, 1))
    return received / heads


def signals_of(adapter: VisionLanguageFacts, encoded: Encoded, number: int) -> dict[str, Any]:
    """The signals of an image that `tower_blocks` belongs to; empty if the tower cannot be observed."""
    depth = adapter.tower_depth
    if not depth:
        return {}
    return {RECEIVED: functools.partial(received_attention, adapter, encoded, number), DEPTH: depth}


def received_attention(adapter: VisionLanguageFacts, encoded: Encoded, number: int, block: int) -> Tensor:
    """Attention that each token of an image receives in a block, (N,); zeros for newlines.

    It is the mean over heads, over all queries of the image (of the frame, of the tile) and over the patches
    of a token.

    Raises
    ------
    IncompatibleError
        When no strategy names the block in its `tower_blocks`.
    UnsupportedCallError
        When it is not known which rows of the tower are those of an image.
    """
    calls = encoded.seen.received.get(block)
    if calls is None:
        observed = ", ".join(map(str, encoded.seen.received)) or "none"
        raise IncompatibleError(
            f"the attention of block {block} of the vision tower was not observed (observed: {observed}); a "
            "strategy that reads it must return the block from its method tower_blocks"
        )
    sums = _of_all_rows(encoded, block, torch.cat(calls, 1))
    try:
        found = adapter.tower_images(encoded.arguments, (sums.shape[0], sums.shape[1]))
    except UnsupportedCallError as error:
        raise UnsupportedCallError(
            f"the signal {RECEIVED} cannot be divided among the pictures of this call: {error}"
        ) from error
    parts = adapter.tower()
    assert parts is not None  # otherwise the signal is not provided
    images = on_device(found, sums.device)
    tiles = [_mean_over_queries(parts, images[tile], sums) for tile in adapter.tiles(encoded, number)]
    received = adapter.token_rows(encoded, number, torch.stack(tiles))
    if len(received) != encoded.lengths[number]:
        raise receipts.broken(
            f"image {number} has {len(received)} tokens in the vision tower, and "
            f"{encoded.lengths[number]} in the prompt"
        )
    return received


def _mean_over_queries(parts: TowerParts, image: TowerImage, sums: Tensor) -> Tensor:
    """Mean over the queries that an image of the tower has, and over the patches of each token, (N,).

    Parameters
    ----------
    sums
        (S, M) what the rows of S sequences received, sums over queries. As each query gives 1 in all, the
        number of queries is the sum over the rows of an image, those before its patches included.
    """
    of_rows = sums.view(-1)[image.rows].view(image.layout.grid[0], -1, image.rows.shape[1])  # by frame
    if parts.packed:
        n_queries = of_rows.sum((1, 2), keepdim=True)
    else:
        n_queries = sums[image.rows[0, :1] // sums.shape[1]].sum()
    received = (of_rows / n_queries.round().clamp(min=1)).mean(-1).flatten()
    return received if image.shown is None or parts.tiled else received[image.shown.to(received.device)]


def _of_all_rows(encoded: Encoded, block: int, sums: Tensor) -> Tensor:
    """Sums (S, K) of the rows that were left in a block, those of all rows (S, M); zeros for dropped ones."""
    outcome = encoded.seen.tower
    cuts = [] if outcome is None else zip(outcome.blocks, outcome.states, strict=True)
    states = [state for boundary, state in cuts if boundary <= block]
    if not states:
        return sums
    keep = states[-1].keep
    return torch.zeros(keep.shape, device=sums.device).masked_scatter(keep.to(sums.device), sums)
