# SPDX-License-Identifier: Apache-2.0
"""Convert conversations to model inputs with the checkpoint's own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers.image_utils import load_image

from tokenprune import InputError

Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class Prompts:
    """Makes model inputs from conversations.

    Parameters
    ----------
    system
        System prompt of every conversation.
    square
        Whether to pad images to squares with the processor's mean colour.
    pixels
        Minimum and maximum size of images, for processors that preserve their aspect ratio.
    """

    processor: Any
    system: str | None = None
    square: bool = False
    pixels: tuple[int | None, int | None] = (None, None)

    def check(self) -> None:
        """Check that the processor supports these settings.

        Raises
        ------
        InputError
            If its chat template omits the system prompt, or it resizes all images to one size.
        """
        if self.system is not None and self.system not in self._system_rendered():
            raise InputError("this checkpoint's chat template does not support a system prompt")
        if any(self.pixels) and not hasattr(self.processor.image_processor, "merge_size"):
            raise InputError(
                "min_pixels and max_pixels require a processor that preserves the aspect ratio, like "
                "Qwen2.5-VL's; this checkpoint's processor resizes all images to one size"
            )

    def _system_rendered(self) -> str:
        try:
            rendered = self.processor.apply_chat_template(
                [self._conversation([{"role": "user", "content": [{"type": "text", "text": ""}]}])],
                tokenize=False,
            )
        except Exception as error:  # a template may raise any exception
            raise InputError(
                f"this checkpoint's chat template does not accept a system prompt: {error}"
            ) from None
        return str(rendered[0])

    def inputs(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """Make model inputs from conversations that end with the user's turn, with padding on the left.

        Parameters
        ----------
        conversations
            Messages in the format of transformers' chat templates; images are PIL images, paths or URLs.
        """
        options: dict[str, Any] = {"padding": True, "padding_side": "left"}
        if any(self.pixels):
            size = dict(self.processor.image_processor.size)
            min_pixels, max_pixels = self.pixels
            size["shortest_edge"] = min_pixels or size["shortest_edge"]
            size["longest_edge"] = max_pixels or size["longest_edge"]
            options["images_kwargs"] = {"size": size}
        inputs = self.processor.apply_chat_template(
            [self._conversation(messages) for messages in conversations],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
        return dict(inputs)

    def _conversation(self, messages: Conversation) -> Conversation:
        if self.square:
            messages = [
                {**turn, "content": [self._padded(part) for part in turn["content"]]} for turn in messages
            ]
        if self.system is None:
            return messages
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *messages]

    def _padded(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        colour = [int(255 * value) for value in self.processor.image_processor.image_mean]
        return {**part, "image": pad_to_square(load_image(part["image"]), colour)}


def pad_to_square(image: Image.Image, colour: Sequence[int]) -> Image.Image:
    """Pad an image to a square with a colour, as in LLaVA-1.5's own evaluation."""
    width, height = image.size
    side = max(width, height)
    if width == height:
        return image
    square = Image.new("RGB", (side, side), tuple(colour))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def has_images(messages: Conversation) -> bool:
    """Return whether a conversation contains images or videos."""
    return any(part["type"] != "text" for turn in messages for part in turn["content"])
