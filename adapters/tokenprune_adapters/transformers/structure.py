# SPDX-License-Identifier: Apache-2.0
"""Find the parts of a vision-language model by its structure: signatures and attributes, whatever its class.

The usual structure: an inner model has `get_image_features`, replaces the embeddings of placeholder tokens by
the rows it returns, and calls a stack of decoder layers with a rotary embedding and a cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import stock

MODALITIES = ("image", "video")
MOST_AXES = 3  # of positions: frame, row, column
_BY_CROSS_ATTENTION = "{} reads images by cross-attention: it has no visual tokens in its cache to drop"


class DifferentStructure(Exception):
    """A model has another structure; the message is a sentence without a full stop."""


@dataclass(frozen=True)
class Structure:
    """The parts of a model.

    `inner` places image rows into the embeddings, `language` is the stack of decoder layers, `tokens` maps
    modalities to placeholder tokens. `shares_placeholders`: images and videos stand on the same token.
    `position_axes`: 3 if positions have a frame, a row and a column.
    """

    inner: Any
    language: Any
    tokens: Mapping[str, int]
    shares_placeholders: bool
    position_axes: int

    @classmethod
    def read(cls, model: nn.Module) -> Structure:
        """Find the parts of a model.

        Raises
        ------
        DifferentStructure
            With the reason, if the model cannot be pruned by its structure.
        """
        name, config = type(model).__name__, getattr(model, "config", None)
        if config is None:
            raise DifferentStructure(f"{name} is not a model of transformers")
        if not hasattr(model, "generate"):
            raise DifferentStructure(f"{name} is not a model of transformers that generates text")
        if getattr(config, stock.mark("whether an encoder reads the prompt"), False):
            raise DifferentStructure(
                f"{name} is an encoder-decoder, whose decoder reads images by cross-attention: it has no "
                "visual tokens in its cache to drop"
            )
        if not stock.generates_tokens(model):
            raise DifferentStructure(
                f"{name} does not generate token by token with the generate of transformers: it has another, "
                "such as block diffusion"
            )
        _check_layers(name, config)
        inner = _inner(model)
        language = _language(inner)
        _check_arguments(name, language)
        tokens = _placeholders(config, inner)
        if "image" not in tokens:
            raise DifferentStructure(f"the configuration of {name} has no image_token_id")
        shares = _videos_stand_on_images(inner, tokens)
        if shares:
            tokens["video"] = tokens["image"]
        axes = MOST_AXES if any(hasattr(inner, method) for method in stock.THREE_AXES) else 1
        return cls(inner, language, tokens, shares, axes)


def _inner(model: nn.Module) -> Any:
    """The module that encodes images and takes token ids beside pixels."""
    name, encoder = type(model).__name__, stock.encoder_name("image")
    for inner in (getattr(model, "model", None), model):
        if inner is None or not hasattr(inner, encoder):
            continue
        takes = inspect.signature(type(inner).forward).parameters
        words = {"token ids": "ids", "pixel values": "images", "key-value cache": "kv"}
        missing = {what: word for what, word in words.items() if not takes.keys() & {*stock.ARGUMENTS[word]}}
        if not missing:
            return inner
        raise DifferentStructure(
            f"{type(inner).__name__}.forward takes no {' and no '.join(missing)} "
            f"(arguments {_spelled(*missing.values())})"
        )
    raise DifferentStructure(f"{name} has no {encoder}, so its image rows cannot be told from text rows")


def _spelled(*words: str) -> str:
    """Arguments of transformers, in all their spellings."""
    return ", ".join(" or ".join(stock.ARGUMENTS[word]) for word in words)


def _language(inner: nn.Module) -> Any:
    """The one child (or the model inside a child with a head) that is a stack of decoder layers."""
    stacks = [stack for child in inner.children() if (stack := _stack_in(child)) is not None]
    name = type(inner).__name__
    if not stacks:
        raise DifferentStructure(
            f"{name} has no child with decoder layers that takes embeddings and a cache "
            f"(arguments {_spelled('embeds', 'kv')})"
        )
    if len(stacks) > 1:
        kinds = ", ".join(type(stack).__name__ for stack in stacks)
        raise DifferentStructure(f"{name} has several children with decoder layers: {kinds}")
    rotary = stock.mark("rotary embedding of a language model")
    if not isinstance(getattr(stacks[0], rotary, None), nn.Module):
        raise DifferentStructure(
            f"{type(stacks[0]).__name__} has no {rotary}, so it is not known where its positions are used"
        )
    return stacks[0]


def _stack_in(child: nn.Module) -> nn.Module | None:
    """The stack of decoder layers that a child is, or has inside its head; None if there is none."""
    for part in (child, getattr(child, "model", None)):
        if isinstance(part, nn.Module) and isinstance(getattr(part, "layers", None), nn.ModuleList):
            takes = inspect.signature(type(part).forward).parameters
            words = (stock.ARGUMENTS["embeds"], stock.ARGUMENTS["kv"])
            if all(any(name in takes for name in names) for names in words):
                return part
    return None


def _check_layers(name: str, config: Any) -> None:
    """Refuse layers that read images by cross-attention, and positions of more axes than are known."""
    text = config.get_text_config()
    if getattr(text, stock.mark("layers that read images by cross-attention"), None):
        raise DifferentStructure(_BY_CROSS_ATTENTION.format(name))
    n_axes = len(stock.rotary_sections(text))
    if n_axes > MOST_AXES:
        raise DifferentStructure(f"{name} has positions of {n_axes} axes, and up to {MOST_AXES} are known")


def _check_arguments(name: str, language: Any) -> None:
    """Refuse a stack that takes images beside its rows."""
    takes = inspect.signature(type(language).forward).parameters
    if any(argument in takes for argument in stock.OWN_FEATURES):
        raise DifferentStructure(
            f"the decoder layers of {name} add features to visual tokens in a form that is not known"
        )
    if any(argument in takes for argument in stock.CROSS_ATTENTION):
        raise DifferentStructure(_BY_CROSS_ATTENTION.format(name))


def _placeholders(config: Any, inner: Any) -> dict[str, int]:
    """Placeholder token of each modality that the inner model encodes."""
    encoded = [modality for modality in MODALITIES if hasattr(inner, stock.encoder_name(modality))]
    ids = {modality: getattr(config, f"{modality}_token_id", None) for modality in encoded}
    return {modality: token for modality, token in ids.items() if isinstance(token, int)}


def _videos_stand_on_images(inner: Any, tokens: Mapping[str, int]) -> bool:
    """Whether a video's rows replace image tokens, which the model's own function for placeholders says."""
    if len(tokens) < len(MODALITIES):
        return False
    if tokens["video"] == tokens["image"]:
        return True
    ids = torch.tensor([[tokens["image"], tokens["video"]]])
    name = stock.mark("placeholders of a prompt")
    try:
        masks = getattr(inner, name)(ids, torch.zeros(1, 2, 1))
        of_video: Tensor = masks[1].reshape(1, 2, -1)[0, :, 0]
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
        return False  # takes other arguments: videos then stand on their own token
    return of_video.tolist() == [True, False]
