# SPDX-License-Identifier: Apache-2.0
"""Reading the weights of vLLM's linear layers, however they are stored.

vLLM packs weights for its kernels, quantises them, splits them over ranks, and may keep no plain copy. A
layer fed the rows of the identity, without its bias, answers with its weights: exactly where they are not
quantised, as they act where they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenprune import LinearForm, Projector

from .lookup import View
from .ranks import whole


class ReadProjector:
    """Projector of a column-parallel layer, an activation, a row-parallel layer; `norm`: an RMS norm before.

    Read when first asked for, and kept, 4 D_h (D_v P + D) bytes on every rank, until the layers answer a row
    otherwise than before: vLLM can load other weights into a running engine.
    """

    def __init__(
        self, column: View, act: Callable[[Tensor], Tensor], row: View, norm: View | None = None
    ) -> None:
        self._column, self._act, self._row, self._norm = column, act, row, norm
        self._ranks = int(column.ranks)
        self._made: tuple[Tensor, Projector] | None = None

    @torch.no_grad()
    def now(self) -> Projector:
        """The projector as it is now; all ranks must ask."""
        answer = whole(self._answer(), 0, self._ranks)  # of all ranks: they read together or not at all
        if self._made is None or not torch.equal(self._made[0], answer):
            self._made = answer, self._projector()
        return self._made[1]

    def _answer(self) -> Tensor:
        """What the layers say to a row of no meaning, (any,)."""
        said = [
            _apply(layer, torch.linspace(-1, 1, width).unsqueeze(0)).flatten()
            for layer, width in ((self._column, self._column.width), (self._row, self._row_width))
        ]
        biases = [layer.bias for layer in (self._column, self._row) if layer.bias is not None]
        norm = [] if self._norm is None else [self._norm.weight]
        return torch.cat([one.detach().float() for one in (*said, *biases, *norm)])

    @property
    def _row_width(self) -> int:
        """Columns of the second layer on this rank."""
        return int(self._row.width) // self._ranks

    def _form(self) -> LinearForm:
        column, row, norm = self._column, self._row, self._norm
        return LinearForm(
            W1=whole(_weight(column, column.width), 0, self._ranks),
            b1=None if column.bias is None else whole(column.bias.float(), 0, self._ranks),
            act=self._act,
            W2=whole(_weight(row, self._row_width), 1, self._ranks),
            b2=None if row.bias is None else row.bias.float(),
            norm_weight=None if norm is None else norm.weight.float(),
            norm_eps=1e-6 if norm is None else float(norm.eps),
        )

    def _projector(self) -> Projector:
        def run(rows: Tensor) -> Tensor:
            read = projector.linear_form()
            assert read is not None
            return read(rows)

        projector = Projector(run, self._form)
        return projector


def _weight(layer: View, width: int) -> Tensor:
    """A rank's share of the weights, (out, in), float32."""
    return _apply(layer, torch.eye(width)).mT.float().contiguous()


def _apply(layer: View, rows: Tensor) -> Tensor:
    """What a layer makes of rows (N, in) without its bias, (N, out)."""
    device = next(layer.thing.parameters()).device
    made: Tensor = layer.multiply(layer.thing, rows.to(device, layer.dtype), None)
    return made
