# SPDX-License-Identifier: Apache-2.0
"""The adapter for vision-language models of transformers that no other adapter knows."""

from __future__ import annotations

import tokenprune

from .authoring import StructuralAdapter


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [StructuralAdapter]
