# SPDX-License-Identifier: Apache-2.0
"""Hints for models that no adapter supports: what a wrapper contains, or which class has the head."""

from __future__ import annotations

import sys

from torch import nn

from . import stock


def hint_for(model: nn.Module) -> str:
    """Explain why a wrapper, a model without its head or a text-only model is not supported; may be empty."""
    name = type(model).__name__
    if hasattr(model, "get_base_model"):
        return "PEFT wraps the model; apply to model.get_base_model(), its adapters stay active"
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        return "torch.compile wraps the model; apply to the model itself, which model.compile() compiles"
    if isinstance(getattr(model, "module", None), nn.Module):
        return f"{name} wraps a model; apply to model.module"
    if isinstance(getattr(model, "thinker", None), nn.Module):
        return f"{name} reads pictures with its thinker; apply to model.thinker"
    modalities = getattr(model, "input_modalities", "image")  # a name, or several
    encodes = hasattr(model, stock.encoder_name("image"))
    if not encodes and not any(modality in modalities for modality in ("image", "video")):
        return f"{name} takes no images, so it has no visual tokens to drop"
    whole = _with_head(type(model))
    if not whole:
        return ""
    return (
        f"{name}, which AutoModel loads, is {whole} without its head; pass the model that contains it, or "
        f"load it as {whole} (AutoModelForImageTextToText)"
    )


def _with_head(base: type) -> str:
    """Name of the class that adds a head to a base class of transformers; empty if there is none."""
    for ancestor in base.__mro__:
        name = ancestor.__name__.removesuffix("Model") + "ForConditionalGeneration"
        if ancestor.__name__.endswith("Model") and hasattr(sys.modules.get(ancestor.__module__), name):
            return name
    return ""
