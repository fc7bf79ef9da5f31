# SPDX-License-Identifier: Apache-2.0
"""Tiny models with random weights, saved as checkpoints that both vLLM and transformers load."""

import numpy as np
import tiny_models as tm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

SIDE = 96  # pixels of a picture, 12 x 12 visual tokens: more than a block of the key-value cache
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
WIDE = {"hidden_size": 128, "num_attention_heads": 4}  # heads of 32, the smallest vLLM's CPU kernels know
SPECIAL = {
    tm.PAD: "<pad>",
    tm.BOS: "<s>",
    tm.IMAGE: "<|image_pad|>",
    tm.VIDEO: "<|video_pad|>",
    92: "<|vision_start|>",
    93: "<|vision_end|>",
    tm.EOS: "</s>",
}
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}IMAGE"
    "{% endif %}{% endfor %}{% endif %} {% endfor %}"
)
QUESTION = "w3 w14 w15 w9 w2"
IMAGE_TEXT = {
    "llava": "<|image_pad|>",
    "llava_next": "<|image_pad|>",
    "qwen": "<|vision_start|> <|image_pad|> <|vision_end|>",
}


def tokenizer():
    """Words w2, w3 ... and the special tokens of `tiny_models`."""
    words = {SPECIAL.get(i, f"w{i}"): i for i in range(tm.DECODER["vocab_size"])}
    made = Tokenizer(models.WordLevel(words, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    others = [text for text in SPECIAL.values() if text not in named.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="w2", additional_special_tokens=others, **named
    )


def save(name, folder, **text):
    """Save the tiny model `name` with its processor; `text` changes its decoder."""
    text = {**WIDE, **text}
    if name == "llava":
        model = tm.llava(image_size=SIDE, **text)
        size = {"shortest_edge": SIDE}
        pictures = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
        kind = LlavaProcessor
    elif name == "llava_next":
        model = tm.llava_next(image_size=SIDE, **text)
        pictures = LlavaNextImageProcessor(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=PINPOINTS,
        )
        kind = LlavaNextProcessor
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
        model = tm.qwen(rope_parameters=rope, **text)
        return _save_qwen(model, folder)
    processor = kind(
        pictures,
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<|image_pad|>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", " <|image_pad|> "),
    )
    _scale(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    _name_tower_as_on_the_hub(folder)


def _save_qwen(model, folder):
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    edges = {"shortest_edge": 16 * 16, "longest_edge": 256 * 256}
    _scale(model).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=edges, **sizes),
        tokenizer(),
        Qwen2VLVideoProcessor(size=edges, **sizes),
        chat_template=TEMPLATE.replace("IMAGE", " <|vision_start|> <|image_pad|> <|vision_end|> "),
    ).save_pretrained(folder)


def _scale(model):
    """Weights of the size that keeps activations near 1, so that rounding stays rounding."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= 1.3 / (weight[0].numel() ** 0.5 * weight.std())
    return model


def _name_tower_as_on_the_hub(folder):
    """vLLM wants the names that checkpoints on the hub have; transformers saves newer ones and reads both."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    new, old = "vision_tower.", "vision_tower.vision_model."
    named = {name if old in name else name.replace(new, old): weight for name, weight in weights.items()}
    save_file(named, file, metadata={"format": "pt"})


def picture(seed, width=SIDE, height=SIDE):
    """A picture of smooth random colours."""
    numbers = np.random.default_rng(seed)
    coarse = numbers.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


torch.set_num_threads(1)
