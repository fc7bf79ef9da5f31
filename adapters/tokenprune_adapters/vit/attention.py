# SPDX-License-Identifier: Apache-2.0
"""Record the queries and keys of one attention module without changing its own, fused attention.

No full attention map is made: the requested rows are computed from the recorded queries and keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import Hooks

Rotate = Callable[[Tensor, Tensor], Tensor]


class QueryKeyTap(ABC):
    """Records queries (B, H, L, d) and keys (B, H_kv, L, d) of an attention module, normed and rotated."""

    scale: float

    def __init__(self) -> None:
        self._hooks = Hooks()

    @abstractmethod
    def query(self, rows: slice) -> Tensor:
        """Queries of some rows, (B, H, R, d)."""

    @abstractmethod
    def key(self) -> Tensor:
        """Keys of all rows, (B, H_kv, L, d)."""

    @abstractmethod
    def forget(self) -> None:
        """Discard the recorded tensors."""

    def remove(self) -> None:
        """Discard the recorded tensors, and remove the hooks."""
        self.forget()
        self._hooks.remove()


class NormTap(QueryKeyTap):
    """Records the outputs of the query and key norms, which exist even as identities.

    `rotate` (rows, rope) -> rows is applied to both if the attention module is called with `rope=`.
    """

    def __init__(
        self, attention: nn.Module, query_norm: nn.Module, key_norm: nn.Module, scale: float, rotate: Rotate
    ) -> None:
        super().__init__()
        self.scale, self._rotate = scale, rotate
        self._query: Tensor | None = None
        self._key: Tensor | None = None
        self._rope: Tensor | None = None
        self._hooks.before(attention, self._on_call, with_kwargs=True)
        self._hooks.after(query_norm, self._on_query)
        self._hooks.after(key_norm, self._on_key)

    def query(self, rows: slice) -> Tensor:
        """Queries of some rows, (B, H, R, d)."""
        return self._rotated(self._query)[:, :, rows]

    def key(self) -> Tensor:
        """Keys of all rows, (B, H_kv, L, d)."""
        return self._rotated(self._key)

    def forget(self) -> None:
        """Discard the recorded tensors."""
        self._query = self._key = self._rope = None

    def _rotated(self, rows: Tensor | None) -> Tensor:
        assert rows is not None  # the block before the cut has run
        return rows if self._rope is None else self._rotate(rows, self._rope)

    def _on_call(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._rope = kwargs.get("rope")

    def _on_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._query = output.detach()

    def _on_key(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._key = output.detach()


class ProjectionTap(QueryKeyTap):
    """Records the inputs of an `nn.MultiheadAttention`, and projects the requested rows again.

    Hooks the norm before it instead of the attention itself, which would lose its fast path.
    """

    def __init__(self, norm: nn.Module, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._attention = attention
        self.scale = attention.head_dim**-0.5
        self._rows: Tensor | None = None
        self._hooks.after(norm, self._on_norm)

    def query(self, rows: slice) -> Tensor:
        """Queries of some rows, (B, H, R, d)."""
        return self._projected(0, rows)

    def key(self) -> Tensor:
        """Keys of all rows, (B, H, L, d)."""
        return self._projected(1, slice(None))

    def forget(self) -> None:
        """Discard the recorded tensors."""
        self._rows = None

    def _projected(self, which: int, rows: slice) -> Tensor:
        assert self._rows is not None  # the block before the cut has run
        weight, bias = self._attention.in_proj_weight, self._attention.in_proj_bias
        part = slice(which * self._attention.embed_dim, (which + 1) * self._attention.embed_dim)
        projected = nn.functional.linear(
            self._rows[:, rows], weight[part].detach(), None if bias is None else bias[part].detach()
        )
        return projected.view(*projected.shape[:2], self._attention.num_heads, -1).transpose(1, 2)

    def _on_norm(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._rows = output.detach()


def probabilities(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention rows in float32: query (B, H, R, d), key (B, H_kv, L, d) -> (B, H, R, L)."""
    # query heads that share a key head
    grouped = query.reshape(len(key), key.shape[1], -1, *query.shape[2:]).float()
    logits = torch.einsum("bgnrd,bgld->bgnrl", grouped, key.float()) * scale
    return logits.softmax(-1).flatten(1, 2)


def cls_attention(tap: QueryKeyTap, n_prefix: int) -> Tensor:
    """Attention of the class token to the patches, (B, H, N); sums to 1 with the prefix columns."""
    return probabilities(tap.query(slice(0, 1)), tap.key(), tap.scale)[:, :, 0, n_prefix:]


def received_attention(tap: QueryKeyTap, n_prefix: int) -> Tensor:
    """Attention that each patch receives, averaged over heads and patch queries, (B, N)."""
    query, key = tap.query(slice(n_prefix, None)), tap.key()
    n_heads, shared = query.shape[1], query.shape[1] // key.shape[1]
    total = query.new_zeros(len(key), key.shape[2], dtype=torch.float32)
    for head in range(n_heads):
        key_head = key[:, head // shared].unsqueeze(1)  # one head at a time, to save memory
        total += probabilities(query[:, head : head + 1], key_head, tap.scale)[:, 0].mean(1)
    return total[:, n_prefix:] / n_heads


def key_metric(tap: QueryKeyTap, n_prefix: int) -> Tensor:
    """Keys of the patches after rotation, averaged over heads, (B, N, d)."""
    return tap.key().mean(1)[:, n_prefix:]
