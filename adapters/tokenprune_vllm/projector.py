# SPDX-License-Identifier: Apache-2.0
"""Read the weights of vLLM's linear layers independently of how they are stored.

vLLM may pack weights for its kernels, quantise them, or shard them over ranks, and may not keep a plain copy.
Applying a layer, without its bias, to an identity matrix returns its weights: exactly if they are not
quantised, and otherwise the dequantised weights that the layer computes with. A layer that also quantises its
inputs is read if their scale follows from the inputs, and otherwise refused: with a fixed scale, the rows of
an identity matrix may be rounded to anything.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tokenprune import LinearForm, Projector
from tokenprune.projector import weights_mark

from .errors import EngineRefusedError
from .lookup import View
from .ranks import gather_shards

AMPLITUDES = (11 / 16, 9 / 16)  # of rows with which weights are compared; exact in every dtype
N_COMPARED = 64  # rows; a fixed scale is that of all of them
TOLERANCE = 0.01  # relative; the largest error of bfloat16 is 0.004


class ReadProjector:
    """Projector made of a column-parallel layer, an activation and a row-parallel layer.

    Its weights are read on first use and cached, which takes 4 D_h (D_v P + D) bytes on every rank. They are
    read again when the layers' outputs change, because vLLM can load other weights into a running engine.

    Parameters
    ----------
    norm
        An RMS norm before the first layer, if there is one, or a layer norm if it has a `shift`; rows must
        then be centred.
    """

    def __init__(
        self, column: View, act: Callable[[Tensor], Tensor], row: View, norm: View | None = None
    ) -> None:
        self._column, self._act, self._row, self._norm = column, act, row, norm
        self._ranks = int(column.ranks)
        self._cached: tuple[Tensor, Projector] | None = None

    @property
    def is_absent(self) -> bool:
        """Whether the engine has no tower: vLLM then leaves its weights on the meta device."""
        return any(weight.is_meta for weight in self._column.wrapped.parameters())

    @torch.no_grad()
    def current(self) -> Projector:
        """Return the projector with its current weights. All ranks must call it."""
        probe = gather_shards(self._probe(), 0, self._ranks)  # the same on all ranks: all read, or none does
        if self._cached is None or not torch.equal(self._cached[0], probe):
            self._cached = probe, _of_form(self._form)
        return self._cached[1]

    def _probe(self) -> Tensor:
        """Return a vector that changes with the weights: outputs for an arbitrary row, biases and norm."""
        outputs = [
            _apply(layer, torch.linspace(-1, 1, width).unsqueeze(0)).flatten()
            for layer, width in ((self._column, self._column.width), (self._row, self._row_width))
        ]
        biases = [layer.bias for layer in (self._column, self._row) if layer.bias is not None]
        norm = [] if self._norm is None else [self._norm.weight, *self._shift]
        return torch.cat([values.detach().float() for values in (*outputs, *biases, *norm)])

    @property
    def _row_width(self) -> int:
        """Number of input columns of the second layer on this rank."""
        return int(self._row.width) // self._ranks

    @property
    def _shift(self) -> list[Tensor]:
        """The bias of a layer norm; empty for an RMS norm."""
        return [self._norm.shift] if self._norm is not None and "shift" in self._norm.names else []

    def _form(self) -> LinearForm:
        column, row = self._column, self._row
        norm = None if self._shift else self._norm
        form = LinearForm(
            W1=gather_shards(_weight(column, column.width), 0, self._ranks),
            b1=None if column.bias is None else gather_shards(column.bias.float(), 0, self._ranks),
            act=self._act,
            W2=gather_shards(_weight(row, self._row_width), 1, self._ranks),
            b2=None if row.bias is None else row.bias.float(),
            norm_weight=None if norm is None else norm.weight.float(),
            norm_eps=1e-6 if norm is None else float(norm.eps),
        )
        if self._norm is None or norm is not None:
            return form
        return form.after_layer_norm(self._norm.weight, self._norm.shift, float(self._norm.eps))


class PlainProjector:
    """Projector made of plain modules of torch, the same on all ranks; read again when their weights change.

    Parameters
    ----------
    read
        Returns the weights of the projector's row-wise part.
    """

    def __init__(self, module: nn.Module, read: Callable[[], LinearForm | None]) -> None:
        self._module, self._read = module, read
        self._cached: tuple[object, Projector] | None = None

    @property
    def is_absent(self) -> bool:
        """Whether the engine has no tower: vLLM then leaves its weights on the meta device."""
        return any(weight.is_meta for weight in self._module.parameters())

    def current(self) -> Projector:
        """Return the projector with its current weights."""
        mark = weights_mark(self._module)
        if self._cached is None or self._cached[0] != mark:
            self._cached = mark, _of_form(self._read)
        return self._cached[1]


def _of_form(read: Callable[[], LinearForm | None]) -> Projector:
    """Return a projector that runs by its weights."""

    def run(rows: Tensor) -> Tensor:
        form = projector.linear_form()
        assert form is not None
        return form(rows)

    projector = Projector(run, read)
    return projector


def _weight(layer: View, width: int) -> Tensor:
    """Return this rank's shard of a layer's weights, (out, in), in float32.

    Raises
    ------
    EngineRefusedError
        If the layer's outputs are not proportional to its inputs.
    """
    weight = _apply(layer, torch.eye(width)).mT.float().contiguous()
    columns = weight[:, :N_COMPARED]
    for amplitude in AMPLITUDES:
        same = _apply(layer, amplitude * torch.eye(width)[:N_COMPARED]).mT.float() / amplitude
        if not (same - columns).norm() < TOLERANCE * columns.norm():  # all zero if the fixed scale is large
            raise EngineRefusedError(
                "tokenprune: the weights of this checkpoint's projector cannot be read, because its inputs "
                'are quantised with a fixed scale; choose a method that does not need the signal "projector" '
                "(`tokenprune list methods` shows signals), or a checkpoint whose projector is not quantised"
            )
    return weight


def _apply(layer: View, rows: Tensor) -> Tensor:
    """Apply a layer without its bias to rows (N, in). Returns (N, out)."""
    device = next(layer.wrapped.parameters()).device
    output: Tensor = layer.multiply(layer.wrapped, rows.to(device, layer.dtype), None)
    return output
