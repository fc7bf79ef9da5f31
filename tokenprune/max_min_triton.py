# SPDX-License-Identifier: Apache-2.0
"""The greedy loop of max-min selection as one kernel launch on NVIDIA GPUs; imported only when used.

One program per image: the running minimum stays in registers, and each step reads one row of similarities
and makes one reduction. A loop of PyTorch operations would launch about five small kernels per pick.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _pick_kernel(
    similarity: tl.tensor,
    weights: tl.tensor,
    start: tl.tensor,
    counts: tl.tensor,
    order: tl.tensor,
    n: tl.tensor,
    n_start: tl.tensor,
    n_picks: tl.tensor,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    image = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, BLOCK)
    count = tl.load(counts + image)
    inside = slots < count
    matrix = similarity + image * n * n
    nearest = tl.full((BLOCK,), float("inf"), tl.float32)
    free = inside
    if WEIGHTED:
        weight = tl.load(weights + image * n + slots, mask=inside, other=0.0)
    for step in range(n_start):
        taken = tl.load(start + image * n_start + step)
        column = tl.load(matrix + taken.to(tl.int64) * n + slots, mask=inside, other=1.0)
        nearest = tl.minimum(nearest, tl.maximum(1.0 - column, 0.0))
        free = free & (slots != taken)
    for step in range(n_picks):
        gain = nearest
        if WEIGHTED:
            gain = nearest * weight
        gain = tl.where(free, gain, -float("inf"))
        pick = tl.argmax(gain, 0, tie_break_left=True)
        tl.store(order + image * n_picks + step, tl.where(n_start + step < count, pick, -1).to(tl.int64))
        column = tl.load(matrix + pick.to(tl.int64) * n + slots, mask=inside, other=1.0)
        nearest = tl.minimum(nearest, tl.maximum(1.0 - column, 0.0))
        free = free & (slots != pick)


def pick_triton(matrix: Tensor, picks: int, weights: Tensor | None, start: Tensor, counts: Tensor) -> Tensor:
    """Implement `tokenprune.max_min.pick` in one launch, with `counts` given.

    Parameters
    ----------
    matrix
        (B, N, N) cosine similarities, float32 and contiguous.
    """
    b, n, _ = matrix.shape
    order = torch.empty((b, picks), dtype=torch.long, device=matrix.device)
    if not order.numel():
        return order
    block = max(16, triton.next_power_of_2(n))
    _pick_kernel[(b,)](
        matrix,
        matrix if weights is None else weights.float().contiguous(),
        start.to(torch.int32).contiguous(),
        counts.to(torch.int32),
        order,
        n,
        start.shape[1],
        picks,
        WEIGHTED=weights is not None,
        BLOCK=block,
        num_warps=min(16, max(4, block // 256)),
        enable_fp_fusion=False,  # rounds as PyTorch does
    )
    return order
