# SPDX-License-Identifier: Apache-2.0
"""The adapter for families without an adapter of their own, and hints for unsupported models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import ClassVar

from torch import nn

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

    @classmethod
    def why_not(cls, model: nn.Module) -> str:
        """Explain why a wrapper, a model without its head or a text-only model is not supported."""
        if hasattr(model, "get_base_model"):
            return "PEFT wraps the model; apply to model.get_base_model(), its adapters stay active"
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            return "torch.compile wraps the model; apply to the model itself, which model.compile() compiles"
        if isinstance(getattr(model, "module", None), nn.Module):
            return f"{type(model).__name__} wraps a model; apply to model.module"
        if isinstance(getattr(model, "thinker", None), nn.Module):
            return f"{type(model).__name__} reads pictures with its thinker; apply to model.thinker"
        if "image" not in getattr(model, "input_modalities", "image"):
            return f"{type(model).__name__} takes no images, so it has no visual tokens to drop"
        whole = _with_head(type(model))
        if not whole:
            return ""
        return (
            f"{type(model).__name__}, which AutoModel loads, is {whole} without its head; pass the model "
            f"that contains it, or load it as {whole} (AutoModelForImageTextToText)"
        )


def _with_head(base: type) -> str:
    """Name of the class that adds a head to a base class of transformers; empty if there is none."""
    for ancestor in base.__mro__:
        name = ancestor.__name__.removesuffix("Model") + "ForConditionalGeneration"
        if ancestor.__name__.endswith("Model") and hasattr(sys.modules.get(ancestor.__module__), name):
            return name
    return ""


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [GenericAdapter]
