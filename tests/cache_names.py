# SPDX-License-Identifier: Apache-2.0
"""What the installed transformers calls a cache: `cache` from 5.24 on, `past_key_values` before."""

import inspect

from transformers import LlavaForConditionalGeneration

CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(LlavaForConditionalGeneration.forward).parameters
)


def cache_of(output):
    """The cache in what a model, or `generate`, gave back."""
    return getattr(output, CACHE)
