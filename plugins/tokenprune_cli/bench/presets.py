# SPDX-License-Identifier: Apache-2.0
"""Models of known sizes with random weights, on which speed does not depend; and what to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

METHODS = ("zoo-exact", "divprune", "visionzip", "fastv", "zoo-prune")


@dataclass(frozen=True)
class Preset:
    """A configuration and what is measured by default.

    `text_tokens` stand around the picture, a little over half of them before it. `side` is the picture's side
    in visual tokens, for models that take any. `decode_steps` are averaged for the time of a token.
    `repeats` are those of the largest batch, smaller ones get twice as many; `end_to_end_repeats` may be
    fewer: answers are long.
    """

    name: str
    about: str
    config: Callable[[], Any]
    keeps: tuple[int, ...]
    batches: tuple[int, ...]
    methods: tuple[str, ...] = METHODS
    new_tokens: tuple[int, ...] = (1, 32, 256)
    text_tokens: int = 64
    side: int = 36
    repeats: int = 5
    end_to_end_repeats: int = 3
    decode_steps: int = 8


def _llava(tower: dict[str, int], text: dict[str, int]) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vocabulary = text["vocab_size"]
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=LlamaConfig(**text, max_position_embeddings=8192),
        image_token_id=vocabulary - 1,
    )


def _micro() -> Any:
    tower = {"image_size": 48, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48}
    text = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    return _llava(
        {**tower, "num_hidden_layers": 3, "num_attention_heads": 4}, {**text, "num_attention_heads": 4}
    )


def _small() -> Any:
    tower = {"image_size": 336, "patch_size": 14, "hidden_size": 512, "intermediate_size": 2048}
    text = {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 30}
    return _llava(
        {**tower, "num_hidden_layers": 12, "num_attention_heads": 8}, {**text, "num_attention_heads": 12}
    )


CLIP_LARGE = {
    "image_size": 336,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
}
VICUNA_7B = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def _llava_next() -> Any:
    from transformers import LlavaNextConfig

    plain = _llava(CLIP_LARGE, VICUNA_7B)
    sides = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    return LlavaNextConfig(
        vision_config=plain.vision_config,
        text_config=plain.text_config,
        image_token_id=plain.image_token_id,
        image_grid_pinpoints=sides,
    )


def _qwen() -> Any:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
    )


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "micro",
            "LLaVA of a few thousand parameters, to try the command",
            _micro,
            keeps=(9,),
            batches=(1, 2),
            new_tokens=(1, 3),
            text_tokens=12,
            repeats=2,
            end_to_end_repeats=1,
            decode_steps=2,
        ),
        Preset(
            "cpu-small",
            "LLaVA of 300 M parameters, 576 visual tokens to 64; under 10 minutes on two CPU cores",
            _small,
            keeps=(64,),
            batches=(1, 8),
            new_tokens=(1,),
            repeats=3,
            decode_steps=4,
        ),
        Preset(
            "llava-1.5-7b",
            "the sizes of LLaVA-1.5-7B, 576 visual tokens",
            lambda: _llava(CLIP_LARGE, VICUNA_7B),
            keeps=(192, 128, 64),
            batches=(1, 8, 32),
        ),
        Preset(
            "llava-next-7b",
            "the sizes of LLaVA-NeXT-7B, 2880 visual tokens in 5 tiles",
            _llava_next,
            keeps=(640, 320, 160),
            batches=(1, 8, 32),
        ),
        Preset(
            "qwen2.5-vl-7b",
            "the sizes of Qwen2.5-VL-7B, 1296 visual tokens",
            _qwen,
            keeps=(259, 130),  # 20 % and 10 %
            batches=(1, 8, 32),
            methods=("zoo-exact", "divprune", "fastv", "zoo-prune"),
        ),
    )
}
