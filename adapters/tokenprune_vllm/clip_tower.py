# SPDX-License-Identifier: Apache-2.0
"""Signals of the vision tower of vLLM's LLaVA models, recorded by hooks on instances.

vLLM builds the tower up to the layer whose output is projected, so its last layer is hooked.
Shapes as in `tokenprune.signals`, with a leading axis of tower images. With several ranks each holds some of
the heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ranks import whole
from .stock import part, watch_attention

ATTENTION = frozenset({"cls_attention", "received_attention", "key_metric"})
WITH_CLASS_TOKEN = ATTENTION | {"cls_hidden"}


class ClipTower:
    """Records the tensors of a tower from which the signals in `needs` are computed.

    Parameters
    ----------
    seen
        Returns the dictionary for recorded tensors; its owner clears it.
    """

    def __init__(self, model: Any, needs: frozenset[str], seen: Callable[[], dict[str, Any]]) -> None:
        self._seen = seen
        if "pre_features" in needs:
            part(model, "projector").thing.register_forward_pre_hook(
                lambda module, args: self._catch("pre_features", args[0])
            )
        if "cls_hidden" in needs:
            part(model, "tower_layers").thing.register_forward_hook(
                lambda module, args, out: self._catch("cls_hidden", out[:, :1])
            )
        if needs & ATTENTION:
            self._attention = part(model, "attention")
            watch_attention(self._attention, lambda query, key: self._catch("query_key", (query, key)))

    def _catch(self, name: str, what: Any) -> None:
        self._seen()[name] = what

    def __call__(self, name: str) -> Tensor:
        """A signal of all tower images, (B, ...), computed once."""
        seen = self._seen()
        if name not in seen:
            seen[name] = getattr(self, f"_{name}")(*self._heads())
        caught: Tensor = seen[name]
        return caught

    def _heads(self) -> tuple[Tensor, Tensor]:
        """Queries and keys of the watched layer, (B, H, N + 1, d), in float32, of all ranks."""
        ranks, width = self._attention.ranks, self._attention.width
        query, key = (
            whole(x.unflatten(-1, (-1, width)).transpose(1, 2), 1, ranks).float()
            for x in self._seen()["query_key"]
        )
        return query, key

    def _rows(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention probabilities of some queries (B, H, R, d), (B, H, R, N + 1)."""
        scale: float = self._attention.scale
        return (query @ key.mT * scale).softmax(-1)

    def _cls_attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention of the class token to the patches, (B, H, N)."""
        return self._rows(query[:, :, :1], key)[:, :, 0, 1:]

    def _received_attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Attention that each patch receives, averaged over heads and patch queries, (B, N)."""
        # one tower image at a time: all rows of one are a full map of it
        return torch.stack(
            [self._rows(q[None, :, 1:], k[None]).mean((1, 2))[0, 1:] for q, k in zip(query, key, strict=True)]
        )

    def _key_metric(self, query: Tensor, key: Tensor) -> Tensor:
        """Keys of the patches, averaged over heads, (B, N, d_head)."""
        return key.mean(1)[:, 1:]
