# SPDX-License-Identifier: Apache-2.0
"""Record the queries and keys of one attention module, under any attention implementation.

The module gets its own copy of the configuration, which names an attention function that records its inputs
and calls the original. Masks, other layers and the model's configuration are unchanged. No full attention map
is made: attention rows are computed from the requested queries.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenprune import UnsupportedCallError, UnsupportedModelError

from . import stock
from .signature import Signature

ATTENTION_SIGNALS = frozenset({"attention_rows", "keys", "text_keys"})  # signals of decoder layers
See = Callable[[Tensor, Tensor, "float | None"], None]


def _functions() -> stock.AttentionFunctions:
    """Transformers' attention functions; imported only once a model is pruned."""
    return stock.AttentionFunctions()


class AttentionFunctionTap:
    """Calls `see(query, key, scaling)` whenever an attention module attends.

    Query (B, H, L, d) and key (B, H_kv, S, d) are what attention itself sees: after rotary embedding, norms
    and cache update. While `dry` is set, the attention is skipped and its output is meaningless.
    """

    def __init__(self, attention: Any, see: See) -> None:
        self._attention, self._see, self.dry = attention, see, False
        self._functions = functions = _functions()
        self._config = attention.config
        # some modules branch on "flash" in the name of the implementation
        self.__name__ = f"tap_{functions.name_of(attention)}_{id(self):x}"
        # the registry is global and must not keep a deleted model alive
        alive = weakref.ref(self)

        def attend(*args: Any, **options: Any) -> Any:
            tap = alive()
            assert tap is not None  # only this tap's module uses the name
            return tap(*args, **options)

        functions.add(self.__name__, attend)
        weakref.finalize(self, functions.forgetting(self.__name__))
        config = copy.copy(self._config)
        functions.use(config, self.__name__)
        attention.config = config

    def __call__(  # noqa: D102  (the class says it)
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
    ) -> Any:
        self._refuse_other_kernels(module)
        self._see(query, key, stock.scaling_of(options))
        if self.dry:
            batch, heads, length, _ = query.shape
            return query.new_zeros(batch, length, heads, value.shape[-1]), None
        attend = self._functions.function(self._functions.implementation(self._config), module)
        return attend(module, query, key, value, *mask, **options)

    def _refuse_other_kernels(self, module: Any) -> None:
        """Refuse a change to or from flash attention: some modules branch on the name, which is ours."""
        name = self._functions.implementation(self._config)
        if ("flash" in name) != ("flash" in self.__name__):
            raise UnsupportedCallError(
                f"the attention implementation of {type(module).__name__} is {name!r} now, and was of "
                "another kind when the model was pruned; call remove() on the handle and prune the model "
                "again"
            )

    def remove(self) -> None:
        """Restore the module's configuration and unregister the function."""
        self._attention.config = self._config
        _functions().remove(self.__name__)


def check_attention(attention: Any, where: str) -> None:
    """Check that a module's attention can be tapped.

    Raises
    ------
    UnsupportedModelError
        If there is no such module, or its attention function is not known.
    """
    if attention is None or getattr(attention, "config", None) is None:
        raise UnsupportedModelError(
            f"no attention module was found at {where}; methods that read attention there cannot run on "
            "this model. Choose a method that needs none of: " + ", ".join(sorted(ATTENTION_SIGNALS))
        )
    functions = _functions()
    name, first = functions.name_of(attention), ("module", "query", "key", "value", "mask")
    function = functions.function(name, attention)
    Signature.of(function, f"the attention function {name!r}", (*first, "scaling"), first=first)


def attention_probabilities(query: Tensor, key: Tensor, allowed: Tensor, scaling: float | None) -> Tensor:
    """Compute rows of softmax attention in float32.

    Parameters
    ----------
    query
        (H, R, d), the requested rows.
    key
        (H_kv, S, d); each key head is shared by H / H_kv query heads.
    allowed
        (R, S) True for the keys that each row attends to.

    Returns
    -------
    Tensor
        (H, R, S); each row sums to 1.
    """
    heads, n_rows, width = query.shape
    grouped = query.reshape(len(key), -1, n_rows, width).float()
    logits = torch.einsum("kgrd,ksd->kgrs", grouped, key.float()) * (scaling or width**-0.5)
    return logits.masked_fill(~allowed, -torch.inf).softmax(-1).view(heads, n_rows, -1)
