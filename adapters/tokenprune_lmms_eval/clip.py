# SPDX-License-Identifier: Apache-2.0
"""`clip=`: the CLIP checkpoint whose text tower CDPruner reads the question with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_adapters.clip_space import ClipSpace
from tokenprune_adapters.loading import first_line

import tokenprune
from tokenprune import InputError
from tokenprune_lmms_eval.arguments import option_names


def taker(pruning: Mapping[str, Any] | None) -> str:
    """Which argument of `tokenprune.apply` takes a CLIP: `method` or `scorer`.

    Raises
    ------
    InputError
        When none does.
    """
    for role in ("method", "scorer"):
        one = (pruning or {}).get(role)
        if isinstance(one, tokenprune.Method | tokenprune.Scorer) and "clip" in option_names(one):
            return role
    raise InputError("clip names a CLIP checkpoint for method=cdpruner or scorer=relevance, alone")


def with_clip(pruning: Mapping[str, Any], name: str, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Give the strategy that takes it the joint space of a CLIP checkpoint, loaded where the model is.

    Parameters
    ----------
    pruning
        Arguments of `tokenprune.apply`, with one that takes it.
    name
        A directory or a hub id.
    model, tokenizer
        The model to prune, and the tokenizer of its prompts.

    Raises
    ------
    InputError
        When the checkpoint does not load.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        clip = CLIPModel.from_pretrained(name, use_safetensors=True).to(model.device).eval()
        space = ClipSpace(clip, AutoTokenizer.from_pretrained(name), tokenizer)
    except Exception as error:  # of many kinds, from transformers and the hub; each means: does not load
        raise InputError(f"clip: '{name}' does not load: {first_line(error)}") from None
    role = taker(pruning)
    return {**pruning, role: pruning[role].with_options(clip=space)}
