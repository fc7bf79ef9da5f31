# SPDX-License-Identifier: Apache-2.0
"""Whether a module's weights are in this process, where strategies can read them."""

from __future__ import annotations

from torch import Tensor, nn

from .errors import IncompatibleError

META, OFFLOADED = "are on the meta device and hold no numbers", "are offloaded"
SHARDED = "are sharded over several processes (FSDP, ZeRO, tensor parallelism)"
REMEDIES = {
    META: "load its weights onto a device",
    OFFLOADED: "keep the projector on a device (device_map)",
    SHARDED: "leave the projector out of what is sharded",
}


def why_not_at_hand(module: nn.Module) -> str:
    """Why the weights of `module` cannot be read here and now, as "are ..."; nothing where they can."""
    for part in module.modules():
        weights = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if any(hasattr(weight, "placements") and hasattr(weight, "to_local") for weight in weights):
            return SHARDED
        if any(weight.is_meta for weight in weights):
            return OFFLOADED if any(hasattr(one, "_hf_hook") for one in module.modules()) else META
        if type(part) is nn.Linear and type(part.weight) in (Tensor, nn.Parameter):  # not packed by a library
            whole = (part.out_features, part.in_features)
            if part.weight.is_floating_point() and tuple(part.weight.shape) != whole:
                return SHARDED
    return ""


def check_at_hand(module: nn.Module, who: str = "this method", in_call: bool = True) -> None:
    """Refuse to read the projector's weights where they are elsewhere.

    Parameters
    ----------
    in_call
        False before a call: weights that FSDP gathers for it, because more than `module` is gathered with
        them, will be at hand by then.

    Raises
    ------
    IncompatibleError
        Saying where they are, and what to do about it.
    """
    why = why_not_at_hand(module)
    alone = any(hasattr(part, "unshard") for part in module.modules())  # a unit of FSDP's is in here
    if not why or (why == SHARDED and not in_call and not alone):
        return
    raise IncompatibleError(
        f"{who} reads the projector's weights, which {why}; {REMEDIES[why]}, or choose a method without the "
        "signal projector"
    )
