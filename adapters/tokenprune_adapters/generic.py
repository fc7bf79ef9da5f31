# SPDX-License-Identifier: Apache-2.0
"""The adapter for tested families without an adapter of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import tokenprune

from .authoring import FAMILIES, Family, FamilyAdapter, Specimen
from .tiny import specimens

TINY = (
    "aya-vision",
    "gemma-3",
    "idefics3",
    "internvl",
    "llava-onevision",
    "mistral-3",
    "paligemma",
    "smolvlm",
)


class GenericAdapter(FamilyAdapter):
    """Adapter for the families in `FAMILIES`."""

    name: ClassVar[str] = "generic"
    families: ClassVar[Mapping[str, Family]] = FAMILIES

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of each family in the table."""
        return specimens(*TINY)


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [GenericAdapter]
