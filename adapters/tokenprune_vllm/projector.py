# SPDX-License-Identifier: Apache-2.0
"""Reading the weights of vLLM's linear layers, however they are stored.

vLLM packs weights for its kernels, quantises them, splits them over ranks, and may keep no plain copy. A
layer fed the rows of the identity, without its bias, answers with its weights: exactly where they are not
quantised, as they act where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenprune import LinearForm, Projector

from .ranks import whole


def two_layer_projector(
    column: Any, act: Callable[[Tensor], Tensor], row: Any, norm: Any | None = None
) -> Projector:
    """Projector of a column-parallel layer, an activation, a row-parallel layer; `norm`: an RMS norm before.

    Read when first asked for, and kept: 4 D_h (D_v P + D) bytes on every rank.
    """

    def form() -> LinearForm:
        ranks = int(getattr(column, "tp_size", 1))
        return LinearForm(
            W1=whole(_weight(column, column.input_size), 0, ranks),
            b1=None if column.bias is None else whole(column.bias.float(), 0, ranks),
            act=act,
            W2=whole(_weight(row, row.input_size // ranks), 1, ranks),
            b2=None if row.bias is None else row.bias.float(),
            norm_weight=None if norm is None else norm.weight.float(),
            norm_eps=1e-6 if norm is None else float(norm.variance_epsilon),
        )

    projector = Projector(lambda rows: projector_form()(rows), form)

    def projector_form() -> LinearForm:
        read = projector.linear_form()
        assert read is not None
        return read

    return projector


@torch.no_grad()
def _weight(layer: Any, width: int) -> Tensor:
    """A rank's share of the weights, (out, in), float32."""
    device = next(layer.parameters()).device
    eye = torch.eye(width, dtype=layer.params_dtype, device=device)
    weight: Tensor = layer.quant_method.apply(layer, eye, None)
    return weight.mT.float().contiguous()
