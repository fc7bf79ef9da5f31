# SPDX-License-Identifier: Apache-2.0
"""The argument `clip` of lmms-eval and the command line: a checkpoint that encodes the question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_adapters.clip_space import ClipSpace
from tokenprune_adapters.loading import first_line

import tokenprune
from tokenprune import InputError
from tokenprune_evaluation.pruning_arguments import option_names


def role_with_clip(pruning: Mapping[str, Any] | None) -> str:
    """Return the argument of `tokenprune.apply` that takes a CLIP model: `method` or `scorer`.

    Raises
    ------
    InputError
        If neither does.
    """
    for role in ("method", "scorer"):
        strategy = (pruning or {}).get(role)
        if isinstance(strategy, tokenprune.Method | tokenprune.Scorer) and "clip" in option_names(strategy):
            return role
    raise InputError("clip requires method=cdpruner or scorer=relevance, and no list of methods")


def with_clip(pruning: Mapping[str, Any], name: str, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Load a CLIP checkpoint on the model's device, and pass its joint space to the strategy.

    Returns the arguments of `tokenprune.apply`.

    Parameters
    ----------
    pruning
        Arguments of `tokenprune.apply`, whose method or scorer takes a CLIP model.
    name
        A directory or a model id on the Hub.
    model, tokenizer
        The model to prune, and the tokenizer of its prompts.

    Raises
    ------
    InputError
        If the checkpoint does not load.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        clip = CLIPModel.from_pretrained(name, use_safetensors=True).to(model.device).eval()
        space = ClipSpace(clip, AutoTokenizer.from_pretrained(name), tokenizer)
    except Exception as error:  # transformers and the Hub raise many types of errors
        raise InputError(f"clip: '{name}' does not load: {first_line(error)}") from None
    role = role_with_clip(pruning)
    return {**pruning, role: pruning[role].with_options(clip=space)}
