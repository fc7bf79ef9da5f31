# SPDX-License-Identifier: Apache-2.0
"""Count the operations that PyTorch runs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
SAME_FORMULA = {  # operations for which some versions of PyTorch have no formula
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs by PyTorch's formulas; PyTorch's own counter does not support gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its FLOPs."""
        out = func(*args, **(kwargs or {}))
        operation = func._overloadpacket
        formula = flop_registry.get(operation) or flop_registry.get(SAME_FORMULA.get(operation))
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out
