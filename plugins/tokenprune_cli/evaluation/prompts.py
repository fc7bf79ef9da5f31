# SPDX-License-Identifier: Apache-2.0
"""From a picture and a question to what `generate` takes, through the model's own processor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

PICTURE_TOKENS = ("image_token", "boi_token", "video_token")  # attributes of processors
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def question_prompt(processor: Any, question: str) -> str:
    """Put a question about one picture into the model's own chat template."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    prompt: str = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return prompt


def picture_token(processor: Any, text: str) -> str | None:
    """Find in a question what stands for a picture in the processor's prompts; no picture belongs to it."""
    tokens = (getattr(processor, name, None) for name in PICTURE_TOKENS)
    return next((token for token in tokens if isinstance(token, str) and token and token in text), None)


def unusable_character(text: str) -> str | None:
    """Find what no tokenizer, file name or text file takes: a NUL, or half of a pair of surrogates."""
    found = _UNUSABLE.search(text)
    return None if found is None else found[0]


def tokenized(processor: Any, images: Sequence[Image.Image], questions: Sequence[str]) -> dict[str, Any]:
    """Model inputs for one question about each picture, rows padded on the left.

    Parameters
    ----------
    processor
        As `AutoProcessor.from_pretrained` gives it.
    images, questions
        Equally many; question i is about picture i.
    """
    prompts = [question_prompt(processor, question) for question in questions]
    inputs = processor(
        images=list(images), text=prompts, padding=True, padding_side="left", return_tensors="pt"
    )
    return dict(inputs)


def placed(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Model inputs on the model's device, pixels in its number format."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
