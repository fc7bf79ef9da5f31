# SPDX-License-Identifier: Apache-2.0
"""What the rows of a vision tower receive, from the attention maps of stock code under eager attention."""

import functools
import sys

import torch


class Maps(dict):
    """Attention maps of modules, recorded by the eager function of their own source file."""

    def __init__(self, monkeypatch, attention):
        source = sys.modules[type(attention).__module__]
        eager = source.eager_attention_forward

        @functools.wraps(eager)
        def watch(module, *args, **options):
            output, maps = eager(module, *args, **options)
            self.setdefault(module, []).append(maps)
            return output, maps

        monkeypatch.setattr(source, "eager_attention_forward", watch)

    def sums(self, attention):
        """Head mean of what the rows of a module receive from all queries, (B, M)."""
        return torch.cat([of_call.mean(1).sum(1) for of_call in self[attention]], 1)


def attention_of(block):
    """The attention module of a block, whatever its name."""
    return next(getattr(block, name) for name in ("attn", "self_attn", "attention") if hasattr(block, name))


def tokens_in_windows(t, h, w, window=2):
    """Numbers of a picture's tokens in the order Qwen's tower works in: frame by frame, window by window."""
    return [
        (frame * h + row) * w + column
        for frame in range(t)
        for top in range(0, h, window)
        for left in range(0, w, window)
        for row in range(top, min(top + window, h))
        for column in range(left, min(left + window, w))
    ]
