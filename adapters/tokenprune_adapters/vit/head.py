# SPDX-License-Identifier: Apache-2.0
"""The map from one token to a tower's output: that of an image which has only this token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokenprune import LinearForm, Projector
from tokenprune.projector import in_float32, linear_weights, weights_mark


class Matrix(nn.Module):
    """A bare weight (D, D_out) as a module: rows @ weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply rows (N, D) -> (N, D_out)."""
        return rows @ self.weight


class TokenHead(nn.Module):
    """Final norm, pooling and projection applied to single tokens, (N, D) -> (N, D_out).

    Pooling by token or average returns a single token unchanged; attention pooling (`pool`) attends to it
    only. Several `heads` are averaged, as in distilled models; the modules `last` follow. All modules are the
    model's own.
    """

    def __init__(
        self,
        norm: nn.Module,
        heads: Sequence[nn.Module],
        pool: nn.Module | None = None,
        pool_norm: nn.Module | None = None,
        last: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.norm, self.pool, self.pool_norm = norm, pool, pool_norm or nn.Identity()
        self.heads, self.last = nn.ModuleList(heads), nn.ModuleList(last)
        self._made: tuple[Any, Projector] | None = None

    def forward(self, rows: Tensor) -> Tensor:
        """Map tokens (N, D) -> (N, D_out)."""
        rows = self.norm(rows)
        if self.pool is not None:
            with sdpa_kernel(SDPBackend.MATH):  # the only backend with forward-mode derivatives
                rows = self.pool(rows.unsqueeze(1))
        rows = self.pool_norm(rows)
        rows = torch.stack([head(rows) for head in self.heads]).mean(0)
        for module in self.last:
            rows = module(rows)
        return rows

    @property
    def layer_norm(self) -> nn.LayerNorm | None:
        """The layer norm, if it is the only norm and the rest is linear; None otherwise."""
        norms = [norm for norm in (self.norm, self.pool_norm) if not isinstance(norm, nn.Identity)]
        if self.pool is not None or len(norms) != 1 or not isinstance(norms[0], nn.LayerNorm):
            return None
        return None if self._affine(norms[0]) is None else norms[0]

    def pre_features(self, rows: Tensor) -> Tensor:
        """The input rows (..., D), centred if a layer norm ignores their mean."""
        return rows if self.layer_norm is None else rows - rows.mean(-1, keepdim=True)

    def projector(self) -> Projector:
        """Return the map in float32 as strategies read it, cached until its weights change."""
        mark = weights_mark(self)
        if self._made is None or self._made[0] != mark:
            self._made = mark, Projector(in_float32(self), self._linear_form)
        return self._made[1]

    def _linear_form(self) -> LinearForm | None:
        """Weights of the closed form: on centred rows a layer norm is an RMS norm, and the rest is linear."""
        norm = self.layer_norm
        if norm is None:
            return None
        affine = self._affine(norm)
        assert affine is not None
        weight, bias = affine
        scale = torch.ones_like(weight[0]) if norm.weight is None else norm.weight.detach().float()
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach().float()
        bias = weight @ shift + bias
        weight = weight * scale
        weight = weight - weight.mean(1, keepdim=True)  # W C: centring, for steps that leave the centred rows
        out, width = weight.shape
        ones = torch.ones_like(scale)
        if out <= width:
            eye = torch.eye(out, device=weight.device)
            return LinearForm(weight, bias, _same, eye, None, ones, norm.eps)
        eye = torch.eye(width, device=weight.device)
        return LinearForm(eye, None, _same, weight, bias, ones, norm.eps)

    def _affine(self, norm: nn.LayerNorm) -> tuple[Tensor, Tensor] | None:
        """Weight (D_out, D) and bias (D_out,) of the averaged heads and `last`; None if one is not linear."""
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))
        width = norm.normalized_shape[0]
        read = [_weights(head, width, device) for head in self.heads]
        linear = [pair for pair in read if pair is not None]
        if len(linear) != len(read):
            return None
        weight = torch.stack([weight for weight, _ in linear]).mean(0)
        bias = torch.stack([bias for _, bias in linear]).mean(0)
        for module in self.last:
            after = _weights(module, len(weight), device)
            if after is None:
                return None
            weight, bias = after[0] @ weight, after[0] @ bias + after[1]
        return weight, bias


def _same(rows: Tensor) -> Tensor:
    return rows * 1  # a new tensor, so that it can be differentiated


def _weights(module: nn.Module, width: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Float32 weight and bias of a linear module with inputs of `width`; None for other modules."""
    if isinstance(module, nn.Identity):
        return torch.eye(width, device=device), torch.zeros(width, device=device)
    if isinstance(module, Matrix):
        weight = module.weight.detach().float().mT
        return weight, weight.new_zeros(len(weight))
    read = linear_weights(module)
    if read is None:
        return None
    return read[0], read[0].new_zeros(len(read[0])) if read[1] is None else read[1]
