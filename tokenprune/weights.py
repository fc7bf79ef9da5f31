# SPDX-License-Identifier: Apache-2.0
"""Reading the weights of linear layers in float32, quantised ones too."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .at_hand import check_at_hand
from .errors import IncompatibleError

if TYPE_CHECKING:
    from typing import TypeGuard


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a module and all its parts: weights are read without dropout while it trains."""
    training = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in training:
            part.training = False
        yield
    finally:
        for part, was in training:
            part.training = was


def linear_weights(linear: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return float32 weight and bias of a linear layer, None for anything else; see `check_at_hand`.

    Of a quantised layer, whatever its layout, they are what it does to unit rows: W x + b at x = 0 and at
    each unit vector, numbers that quantised inputs hold exactly. None where it turns out not to be linear.
    """
    check_at_hand(linear)
    if is_plain(linear):
        bias = None if linear.bias is None else linear.bias.detach().float()
        return linear.weight.detach().float(), bias
    width = getattr(linear, "in_features", None)
    if not isinstance(width, int):
        return None
    tensors = [*linear.parameters(), *linear.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")  # quantised layers of torch run there
    unit, other = (
        torch.eye(width + 1, dtype=torch.float32)[:, 1:],
        torch.linspace(-1, 1, width, dtype=torch.float32)[None],
    )  # the first row: x = 0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):  # what its kernel takes
        try:
            with torch.no_grad(), evaluating(linear):
                out, want = (linear(rows.to(device, dtype)).float() for rows in (unit, other))
        except (RuntimeError, ValueError, NotImplementedError):
            continue
        bias, weight = out[0], (out[1:] - out[0]).mT.contiguous()
        found = nn.functional.linear(other.to(device), weight, bias)
        is_linear = bool((found - want).norm() <= 0.05 * want.norm() + 1e-6)
        return (weight, bias if bool(bias.any()) else None) if is_linear else None
    return None


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is torch's own, with weights of a floating-point type one can calculate with."""
    if type(module) not in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    weight = module.weight
    return (
        type(weight) in (Tensor, nn.Parameter)
        and not weight.is_meta
        and weight.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    )


def dequantised(module: nn.Module) -> nn.Module:
    """Return the module itself, or a copy that shares its weights and has quantised linear layers read."""
    if is_plain(module):
        return module
    if isinstance(getattr(module, "in_features", None), int) or isinstance(module, nn.Linear):
        read = linear_weights(module)
        if read is None:
            raise IncompatibleError(
                f"the weights of the projector's {type(module).__name__} cannot be read in float32; leave "
                "the projector out when quantising (modules_to_not_convert), or choose a method that does "
                "not need the signal projector"
            )
        plain = nn.Linear(read[0].shape[1], len(read[0]), read[1] is not None, device="meta")
        plain.weight = nn.Parameter(read[0], requires_grad=False)
        if read[1] is not None:
            plain.bias = nn.Parameter(read[1], requires_grad=False)
        return plain
    children = {name: child and dequantised(child) for name, child in module._modules.items()}
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    twin = copy.copy(module)
    twin._modules = children
    return twin
