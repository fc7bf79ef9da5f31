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

    `system` stands before each conversation; pictures are padded to squares with the processor's mean colour
    if `square`; `pixels` (least, most) bounds the size of pictures, for processors that resize freely.
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
            If its chat template leaves out the system prompt, or its pictures have one size.
        """
        if self.system is not None and self.system not in self._system_rendered():
            raise InputError("this checkpoint's chat template has no place for a system prompt")
        if any(self.pixels) and not hasattr(self.processor.image_processor, "merge_size"):
            raise InputError(
                "min_pixels and max_pixels are for processors that keep a picture's shape, as Qwen2.5-VL's; "
                "this checkpoint's brings all pictures to one size"
            )

    def _system_rendered(self) -> str:
        try:
            rendered = self.processor.apply_chat_template(
                [self._conversation([{"role": "user", "content": [{"type": "text", "text": ""}]}])],
                tokenize=False,
            )
        except Exception as error:  # a template may raise whatever it likes
            raise InputError(f"this checkpoint's chat template takes no system prompt: {error}") from None
        return str(rendered[0])

    def inputs(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """Make model inputs from conversations that end with the user's turn, padded on the left.

        Parameters
        ----------
        conversations
            Messages as transformers' chat templates take them, pictures as PIL images, paths or URLs.
        """
        options: dict[str, Any] = {"padding": True, "padding_side": "left"}
        if any(self.pixels):
            size = dict(self.processor.image_processor.size)
            least, most = self.pixels
            size["shortest_edge"] = least or size["shortest_edge"]
            size["longest_edge"] = most or size["longest_edge"]
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
                {**turn, "content": [self._squared(part) for part in turn["content"]]} for turn in messages
            ]
        if self.system is None:
            return messages
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *messages]

    def _squared(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "image":
            return part
        mean = self.processor.image_processor.image_mean
        return {**part, "image": squared(load_image(part["image"]), [int(255 * value) for value in mean])}


def squared(picture: Image.Image, colour: Sequence[int]) -> Image.Image:
    """Centre a picture on a square of this colour, as in LLaVA-1.5's own evaluation."""
    width, height = picture.size
    side = max(width, height)
    if width == height:
        return picture
    square = Image.new("RGB", (side, side), tuple(colour))
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def has_pictures(messages: Conversation) -> bool:
    """Whether a conversation contains pictures or videos."""
    return any(part["type"] != "text" for turn in messages for part in turn["content"])
