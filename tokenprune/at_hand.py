# SPDX-License-Identifier: Apache-2.0
"""Check that a module's weights can be read in this process: not on meta, not offloaded, not sharded."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .errors import IncompatibleError

META, OFFLOADED = "are on the meta device and hold no numbers", "are offloaded"
SHARDED = "are sharded over several processes (FSDP, ZeRO, tensor parallelism)"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
REMEDIES = {
    META: "load its weights onto a device",
    OFFLOADED: "keep the projector on a device (device_map)",
    SHARDED: "leave the projector out of what is sharded",
}


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is a torch linear layer with weights of a standard floating-point type."""
    if type(module) not in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    weight: Any = getattr(module, "weight", None)
    return type(weight) in (Tensor, nn.Parameter) and not weight.is_meta and weight.dtype in DTYPES


def is_compressed(module: nn.Module) -> bool:
    """Return whether a linear layer of torch has no weights that it can run with.

    Libraries that quantise layers without replacing them decompress the weights at the model's first call.
    """
    if type(module) is not nn.Linear:
        return False
    weight: Any = getattr(module, "weight", None)
    return weight is None or (type(weight) in (Tensor, nn.Parameter) and weight.dtype not in DTYPES)


def why_not_at_hand(module: nn.Module) -> str:
    """Return why the weights of `module` cannot be read, as "are ...", or an empty string if they can."""
    for part in module.modules():
        weights = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if any(hasattr(weight, "placements") and hasattr(weight, "to_local") for weight in weights):
            return SHARDED
        if any(weight.is_meta for weight in weights):
            return OFFLOADED if any(hasattr(child, "_hf_hook") for child in module.modules()) else META
        if is_plain(part) and tuple(part.weight.shape) != (part.out_features, part.in_features):
            return SHARDED
    return ""


def check_at_hand(module: nn.Module, who: str = "this method", in_call: bool = True) -> None:
    """Raise if the weights of the projector `module` cannot be read.

    Parameters
    ----------
    in_call
        False before a call: if the FSDP unit of the weights is larger than `module`, FSDP gathers them for
        the call, and they are accepted.

    Raises
    ------
    IncompatibleError
        Naming where the weights are, and the remedy.
    """
    why = why_not_at_hand(module)
    contains_fsdp_unit = any(hasattr(part, "unshard") for part in module.modules())
    if not why or (why == SHARDED and not in_call and not contains_fsdp_unit):
        return
    raise IncompatibleError(
        f"{who} reads the projector's weights, which {why}; {REMEDIES[why]}, or choose a method without the "
        "signal projector"
    )
