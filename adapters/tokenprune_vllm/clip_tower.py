# SPDX-License-Identifier: Apache-2.0
"""Signals of the vision tower of vLLM's LLaVA models, recorded by hooks on instances.

vLLM builds the tower only up to the layer whose output is projected, so the hooks are on its last layer.
Shapes are those of `tokenprune.signals` with a leading axis for tower images. With tensor parallelism each
rank has some of the heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ranks import gather_shards
from .stock import part, watch_attention

ATTENTION = frozenset({"cls_attention", "received_attention", "key_metric"})
WITH_CLASS_TOKEN = ATTENTION | {"cls_hidden"}


class ClipTower:
    """Records the tensors of a tower from which the signals in `needs` are computed.

    Parameters
    ----------
    recorded
        Returns the dictionary in which tensors are recorded; the caller clears it.
    """

    def __init__(self, model: Any, needs: frozenset[str], recorded: Callable[[], dict[str, Any]]) -> None:
        self._recorded = recorded
        if "pre_features" in needs:
            part(model, "projector").wrapped.register_forward_pre_hook(
                lambda module, args: self._record("pre_features", args[0])
            )
        if "cls_hidden" in needs:
            part(model, "tower_layers").wrapped.register_forward_hook(
                lambda module, args, out: self._record("cls_hidden", out[:, :1])
            )
        if needs & ATTENTION:
            self._attention = part(model, "attention")
            watch_attention(self._attention, lambda query, key: self._record("query_key", (query, key)))

    def _record(self, name: str, value: Any) -> None:
        self._recorded()[name] = value

    def __call__(self, name: str) -> Tensor:
        """Return a signal of all tower images, (B, ...), computed on first use."""
        recorded = self._recorded()
        if name not in recorded:
            recorded[name] = getattr(self, f"_{name}")(*self._heads())
        signal: Tensor = recorded[name]
        return signal

    def _heads(self) -> tuple[Tensor, Tensor]:
        """Return the last layer's queries and keys of all ranks, (B, H, N + 1, d), in float32."""
        ranks, width = self._attention.ranks, self._attention.width
        query, key = (
            gather_shards(x.unflatten(-1, (-1, width)).transpose(1, 2), 1, ranks).float()
            for x in self._recorded()["query_key"]
        )
        return query, key

    def _rows(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention probabilities (B, H, R, N + 1) of queries (B, H, R, d)."""
        scale: float = self._attention.scale
        return (query @ key.mT * scale).softmax(-1)

    def _cls_attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention from the class token to the patches, (B, H, N)."""
        return self._rows(query[:, :, :1], key)[:, :, 0, 1:]

    def _received_attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the attention that each patch receives, averaged over heads and patch queries, (B, N)."""
        # one tower image at a time, because each needs its full attention map
        return torch.stack(
            [self._rows(q[None, :, 1:], k[None]).mean((1, 2))[0, 1:] for q, k in zip(query, key, strict=True)]
        )

    def _key_metric(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the keys of the patches, averaged over heads, (B, N, d_head)."""
        return key.mean(1)[:, 1:]
