# SPDX-License-Identifier: Apache-2.0
"""Description of a vision transformer, whatever library it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tokenprune import UnsupportedCallError, UnsupportedModelError

from .attention import QueryKeyTap
from .head import TokenHead


@dataclass(frozen=True)
class Tower:
    """A stack of equal blocks over prefix tokens (class, distillation, registers), then patches row by row.

    `module` has `forward_intermediates`. `entry` is the first module to receive the pictures (B, C, H, W);
    `grid` (height, width) -> (h, w) computes their grid of patches, and `usual` is the default grid. `tap`
    (block) returns a factory of taps on its attention, None if that is of an unknown kind. `head` is the map
    from a token to the output, None if there is none. `patch` (height, width) is the size of a patch, None if
    rows are not made of the pixels of one patch each.
    """

    module: Any
    entry: nn.Module
    blocks: tuple[nn.Module, ...]
    n_prefix: int
    has_class_token: bool
    usual: tuple[int, int]
    grid: Callable[[int, int], tuple[int, int]]
    tap: Callable[[nn.Module], Callable[[], QueryKeyTap] | None]
    head: TokenHead | None
    is_checkpointing: Callable[[], bool]
    patch: tuple[int, int] | None = None

    def has_attention(self) -> bool:
        """Whether the queries and keys of every block can be recorded."""
        return all(self.tap(block) is not None for block in self.blocks)


def patch_of(embedding: Any) -> tuple[int, int] | None:
    """Size (height, width) of the patches that a module embeds one by one; None for any other module."""
    if not isinstance(embedding, nn.Conv2d) or embedding.kernel_size != embedding.stride:
        return None
    plain = embedding.padding in ((0, 0), "valid") and embedding.dilation == (1, 1)
    height, width = embedding.kernel_size
    return (height, width) if plain else None


def refuse_compiled(model: nn.Module) -> None:
    """Refuse models that are compiled, entirely or in part."""
    for module in model.modules():
        wrapped = type(module).__name__ == "OptimizedModule"
        if wrapped or getattr(module, "_compiled_call_impl", None) is not None:
            raise UnsupportedModelError(
                f"this {type(model).__name__} is compiled (torch.compile); apply tokenprune to the "
                "model itself, and compile it afterwards"
            )


def refuse_tracing(pictures: Any) -> None:
    """Refuse torch.fx, torch.export and torch.jit: a graph would fix the choice of tokens."""
    scripting = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if scripting or torch.compiler.is_exporting() or isinstance(pictures, torch.fx.Proxy):
        raise UnsupportedCallError(
            "a pruned tower cannot be traced or exported: the kept tokens depend on the "
            "picture; call remove() before, or use torch.compile, which is supported"
        )
