# SPDX-License-Identifier: Apache-2.0
"""Read the weights of linear layers in float32, including quantised ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .at_hand import check_at_hand, is_plain
from .errors import IncompatibleError


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and its submodules into evaluation mode, restoring each one's mode afterwards."""
    training = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in training:
            part.training = False
        yield
    finally:
        for part, mode in training:
            part.training = mode


def linear_weights(linear: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return float32 weight and bias of a linear layer, or None for anything else; see `check_at_hand`.

    A quantised layer of any format is evaluated at x = 0 and at each unit vector, which quantised inputs
    represent exactly. Returns None if it turns out not to be linear.
    """
    check_at_hand(linear)
    if is_plain(linear):
        bias = None if linear.bias is None else linear.bias.detach().float()
        return linear.weight.detach().float(), bias
    width = getattr(linear, "in_features", None)
    if not isinstance(width, int):
        return None
    tensors = [*linear.parameters(), *linear.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")  # torch's quantised layers run there
    unit = torch.eye(width + 1, dtype=torch.float32)[:, 1:]  # the first row is x = 0
    probe = torch.linspace(-1, 1, width, dtype=torch.float32)[None]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):  # the first that the kernel supports
        try:
            with torch.no_grad(), evaluating(linear):
                out, expected = (linear(rows.to(device, dtype)).float() for rows in (unit, probe))
        except (RuntimeError, ValueError, NotImplementedError, AttributeError):  # one without a weight, too
            continue
        bias, weight = out[0], (out[1:] - out[0]).mT.contiguous()
        result = nn.functional.linear(probe.to(device), weight, bias)
        norm = torch.linalg.vector_norm
        is_linear = bool(norm(result - expected) <= 0.05 * norm(expected) + 1e-6)
        return (weight, bias if bool(bias.any()) else None) if is_linear else None
    return None


class _GivenLinear(nn.Linear):
    """A linear layer whose weights are set later; drawing them would fail inside `torch.func.vmap`."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def dequantised(module: nn.Module) -> nn.Module:
    """Return a copy with quantised linear layers dequantised, or `module` itself if there are none."""
    if is_plain(module):
        return module
    if isinstance(getattr(module, "in_features", None), int) or isinstance(module, nn.Linear):
        dense = linear_weights(module)
        if dense is None:
            raise IncompatibleError(
                f"the weights of the projector's {type(module).__name__} cannot be read in float32; leave "
                "the projector out when quantising (modules_to_not_convert), or choose a method that does "
                "not need the signal projector"
            )
        weight, bias = dense
        plain = _GivenLinear(weight.shape[1], len(weight), bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias, requires_grad=False)
        return plain
    children = {name: child and dequantised(child) for name, child in module._modules.items()}
    if all(children[name] is child for name, child in module._modules.items()):
        return module
    clone = copy.copy(module)
    clone._modules = children
    return clone
