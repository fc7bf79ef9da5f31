# SPDX-License-Identifier: Apache-2.0
"""The row-wise part of projectors, which maps one row per visual token, and its closed form.

Some projectors first rearrange or pool the tower's output (pixel shuffle, average pooling) and then work row
by row. Strategies read the second part only: its inputs as `pre_features`, the map as `projector`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import LinearForm, UnsupportedModelError
from tokenprune.projector import two_layer_form
from tokenprune.weights import linear_weights

from .adapted import running


@dataclass(frozen=True)
class RowWise:
    """The row-wise part of a projector.

    `module` is the module whose inputs are the rows, `project` maps rows to the language model's width, and
    `form` returns the weights. If `centred`, rows must have zero mean, see `LinearForm.after_layer_norm`.
    """

    module: nn.Module
    project: nn.Module
    form: Callable[[], LinearForm | None]
    centred: bool = False


def layer_norm_form(norm: Any, first: nn.Module, act: Any, second: nn.Module) -> LinearForm | None:
    """Closed form of layer norm -> linear -> activation -> linear, for centred rows."""
    plain = two_layer_form(first, act, second)
    return None if plain is None else plain.after_layer_norm(norm.weight, norm.bias, float(norm.eps))


def centred(rows: Tensor) -> Tensor:
    """Subtract each row's mean, in float32."""
    rows = rows.float()
    return rows - rows.mean(-1, keepdim=True)


def linear_form(linear: nn.Module) -> LinearForm | None:
    """Closed form of a single linear layer; all rows are equally sensitive."""
    read = linear_weights(linear)
    if read is None:
        return None
    weight, bias = read
    return LinearForm(torch.eye(weight.shape[1], device=weight.device), None, nn.Identity(), weight, bias)


def norm_form(eps: float, linear: nn.Module) -> LinearForm | None:
    """Closed form of RMS norm without weights -> linear."""
    read = linear_weights(linear)
    if read is None:
        return None
    weight, bias = read
    eye = torch.eye(weight.shape[1], device=weight.device)
    return LinearForm(eye, None, nn.Identity(), weight, bias, torch.ones_like(weight[0]), eps)


def of_linear(linear: nn.Module) -> RowWise:
    """Describe a single linear layer."""
    return RowWise(linear, linear, lambda: linear_form(linear))


def of_layers(module: nn.Module) -> RowWise:
    """Describe linear -> activation -> linear or a single linear layer, after a layer norm of the same width.

    The layers are the module itself, or its children in their order. What comes before them (norms of another
    width, rearrangements) is not part of the row-wise map.

    Raises
    ------
    UnsupportedModelError
        If the module's last children are other layers.
    """
    module = running(module)
    if isinstance(getattr(module, "in_features", None), int):  # one layer, with parts of its own if adapted
        return of_linear(module)
    chain = _flat(module) or [module]
    has_two = len(chain) >= 3 and _is_activation(chain[-2]) and not _is_activation(chain[-3])
    if _is_activation(chain[-1]) or (not has_two and len(chain) > 1 and _is_activation(chain[-2])):
        raise UnsupportedModelError(
            f"{type(module).__name__} does not end in one or two linear layers; describe its rows in the "
            "adapter: docs/writing-an-adapter.md"
        )
    if not has_two:
        return of_linear(chain[-1])
    first, act, second = chain[-3:]
    norm: Any = chain[-4] if len(chain) > 3 and isinstance(chain[-4], nn.LayerNorm) else None
    if norm is None or norm.normalized_shape != (getattr(first, "in_features", None),):
        return RowWise(first, nn.Sequential(first, act, second), lambda: two_layer_form(first, act, second))
    return RowWise(
        norm,
        nn.Sequential(norm, first, act, second),
        lambda: layer_norm_form(norm, first, act, second),
        centred=True,
    )


def _is_activation(module: nn.Module) -> bool:
    """Whether a module has no weights; quantised layers keep theirs in buffers."""
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _flat(module: nn.Module) -> list[nn.Module]:
    """The children of a module, and those of sequences among them, in order."""
    return [
        layer
        for child in module.children()
        for layer in (_flat(child) if isinstance(child, nn.Sequential) else [child])
    ]


class _Gated(nn.Module):
    """Aya Vision's projector after its pixel shuffle: half of the first layer's outputs gate the rest."""

    def __init__(self, projector: Any) -> None:
        super().__init__()
        self.norm, self.first, self.second = projector.layernorm, projector.linear_1, projector.linear_2
        self.act = projector.act

    def forward(self, rows: Tensor) -> Tensor:
        values, gate = self.first(self.norm(rows)).chunk(2, dim=-1)
        out: Tensor = self.second(self.act(gate) * values)
        return out


def of_gated_layers(module: Any) -> RowWise:
    """Describe layer norm -> gated linear layers (Aya Vision), which have no closed form."""
    return RowWise(module.layernorm, _Gated(module), lambda: None)


class _NormThenMatrix(nn.Module):
    """Gemma 3's projector after its average pooling."""

    def __init__(self, norm: nn.Module, weight: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.weight = norm, weight

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.norm(rows) @ self.weight
        return out


def of_pooled_norm(module: Any) -> RowWise:
    """Describe RMS norm -> matrix, after pooling (Gemma 3)."""
    norm, weight = module.mm_soft_emb_norm, module.mm_input_projection_weight

    def form() -> LinearForm | None:
        W2 = weight.detach().float().mT
        eye = torch.eye(W2.shape[1], device=W2.device)
        return LinearForm(eye, None, nn.Identity(), W2, None, 1 + norm.weight.detach().float(), norm.eps)

    return RowWise(norm, _NormThenMatrix(norm, weight), form)
