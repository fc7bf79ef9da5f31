# SPDX-License-Identifier: Apache-2.0
"""The name of a model's key-value cache: transformers renamed `past_key_values` to `cache` in 5.24."""

from __future__ import annotations

import inspect
from typing import Any

NAMES = ("cache", "past_key_values")


def cache_name(model: Any) -> str:
    """Return the name of the cache among arguments and outputs; raise TypeError if the model has none."""
    arguments = inspect.signature(type(model).forward).parameters
    for name in NAMES:
        if name in arguments:
            return name
    raise TypeError(
        f"{type(model).__name__}.forward takes no cache: it has none of the arguments {', '.join(NAMES)}; "
        "use a model that generates from a key-value cache"
    )
