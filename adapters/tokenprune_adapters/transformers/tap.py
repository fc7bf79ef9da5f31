# SPDX-License-Identifier: Apache-2.0
"""Looking at the queries and keys of one attention module, under any attention implementation.

Only that module gets a configuration of its own, which names an attention function of ours; it looks and
hands over to the original one. Masks, other layers and the model's configuration are untouched. No attention
map is ever made: rows are computed from the queries asked for.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ATTENTION_SIGNALS = frozenset({"attention_rows", "keys", "text_keys"})  # of a decoder layer
See = Callable[[Tensor, Tensor, "float | None"], None]


def _functions() -> Any:
    """The attention functions of transformers, by name; imported only once a model is pruned."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS


class AttentionTap:
    """Calls `see(query, key, scaling)` whenever an attention module attends.

    Query (B, H, L, d) and key (B, H_kv, S, d) are what attention itself sees: after rotary, after the norms,
    after the cache was updated. With `dry` the attention itself is left out, and its output means nothing.
    """

    def __init__(self, attention: Any, see: See, dry: bool = False) -> None:
        self._attention, self._see, self._dry = attention, see, dry
        self._config = attention.config
        # some modules branch on "flash" in the name of the implementation
        self.__name__ = f"tap_{self._config._attn_implementation}_{id(self):x}"
        # the registry is global: it must not keep a model alive that is dropped while pruned
        alive = weakref.ref(self)

        def attend(*args: Any, **options: Any) -> Any:
            tap = alive()
            assert tap is not None  # only this tap's module names it
            return tap(*args, **options)

        _functions().register(self.__name__, attend)
        weakref.finalize(self, _functions()._global_mapping.pop, self.__name__, None)
        config = copy.copy(self._config)
        config._attn_implementation_internal = self.__name__
        attention.config = config

    def __call__(  # noqa: D102  (the class says it)
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> Any:
        self._see(query, key, options.get("scaling"))
        if self._dry:
            return query.transpose(1, 2).contiguous(), None
        name = self._config._attn_implementation
        eager = sys.modules[type(module).__module__].eager_attention_forward
        attend = eager if name == "eager" else _functions()[name]
        return attend(module, query, key, value, attention_mask, **options)

    def remove(self) -> None:
        """Give the module its configuration back and forget the function's name."""
        self._attention.config = self._config
        _functions()._global_mapping.pop(self.__name__, None)


def attention_probabilities(query: Tensor, key: Tensor, allowed: Tensor, scaling: float | None) -> Tensor:
    """Softmax rows, in float32.

    Parameters
    ----------
    query
        (H, R, d), the rows asked for.
    key
        (H_kv, S, d); each serves H / H_kv query heads.
    allowed
        (R, S) which keys each row sees.

    Returns
    -------
    Tensor
        (H, R, S); each row sums to 1.
    """
    heads, n_rows, width = query.shape
    grouped = query.reshape(len(key), -1, n_rows, width).float()
    logits = torch.einsum("kgrd,ksd->kgrs", grouped, key.float()) * (scaling or width**-0.5)
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1).view(heads, n_rows, -1)
