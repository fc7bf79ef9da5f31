# SPDX-License-Identifier: Apache-2.0
"""Make the inputs of `generate` from images and questions, with the model's own processor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

PICTURE_TOKENS = ("image_token", "boi_token", "video_token")  # attributes of processors
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def question_prompt(processor: Any, question: str) -> str:
    """Return the prompt of a question about an image, by the model's chat template."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    prompt: str = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return prompt


def picture_token(processor: Any, text: str) -> str | None:
    """Return the placeholder of an image that a question contains by mistake, or None."""
    tokens = (getattr(processor, name, None) for name in PICTURE_TOKENS)
    return next((token for token in tokens if isinstance(token, str) and token and token in text), None)


def unusable_character(text: str) -> str | None:
    """Return a character that tokenizers and files do not accept (NUL or a lone surrogate), or None."""
    match = _UNUSABLE.search(text)
    return None if match is None else match[0]


def tokenized(processor: Any, images: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, Any]:
    """Return the model inputs of a question about each image, with rows padded on the left.

    Parameters
    ----------
    processor
        As `AutoProcessor.from_pretrained` returns it.
    images, questions
        Question i is about image i.
    """
    prompts = [question_prompt(processor, question) for question in questions]
    inputs = processor(
        images=list(images), text=prompts, padding=True, padding_side="left", return_tensors="pt"
    )
    return dict(inputs)


def placed(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Move model inputs to the model's device, and floating-point values to its dtype."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
