# SPDX-License-Identifier: Apache-2.0
"""Decode on a cache that was pruned and not trimmed, hiding dropped tokens from every layer with masks.

What `trim_early_cache` is defined by: the prefill is that of the cut alone, and later calls see in no layer
what any cut of an earlier prompt dropped.
"""

from contextlib import contextmanager

import torch
from cache_names import CACHE


@contextmanager
def hiding_dropped(model):
    """Replace the mask of each decoder layer in all later calls of a pruned model on an old cache.

    A new token sees those before it in its own call, and of the cache those that the last layer still holds.
    Rows of a call that are padding are not known here: later calls must have none.
    """
    language = model.model.language_model
    layers, stored = list(language.layers), {}

    def before_call(module, args, kwargs):
        cache = kwargs.get(CACHE)
        stored.clear()
        if cache is not None and cache.get_seq_length():
            stored.update({i: _tokens(layer) for i, layer in enumerate(cache.layers)})

    def before_layer(i, args, kwargs):
        if not stored:
            return None
        n = (args[0] if args else kwargs["hidden_states"]).shape[1]
        left, is_left = stored[len(layers) - 1]
        rows = max(len(left), len(stored[i][0]))
        sees = torch.stack(
            [torch.isin(_row(stored[i][0], row), _row(left, row)[_row(is_left, row)]) for row in range(rows)]
        )
        past = (sees & stored[i][1])[:, None, None].expand(-1, 1, n, -1)
        new = torch.ones(n, n, dtype=torch.bool).tril().expand(len(sees), 1, -1, -1)
        mask = torch.cat([past, new], 3)
        if model.config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    hooks = [language.register_forward_pre_hook(before_call, with_kwargs=True)]
    for i, layer in enumerate(layers):
        hooks.append(
            layer.register_forward_pre_hook(lambda _, a, k, i=i: before_layer(i, a, k), with_kwargs=True)
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tokens(layer):
    """Tokens that a cache layer stores (1 or B, S), and which of them are not padding."""
    n, device = layer.keys.shape[2], layer.keys.device
    if not hasattr(layer, "tokens_of"):  # all of them
        return torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool)
    tokens = layer.tokens_of(n, device)
    return tokens, layer.validity(len(layer.keys), n, device)


def _row(values, row):
    return values[min(row, len(values) - 1)]
