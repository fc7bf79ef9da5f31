# SPDX-License-Identifier: Apache-2.0
"""Tiny models with random weights, saved as checkpoints that both vLLM and transformers load."""

import family_checkpoints
import numpy as np
import tiny_models as tm
import tiny_processors as tp
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

SIDE = 96  # pixels of a picture, 12 x 12 visual tokens: more than a block of the key-value cache
WIDE = {"hidden_size": 128, "num_attention_heads": 4}  # heads of 32, the smallest vLLM's CPU kernels know
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
IMAGE_TEXT = {
    "llava": "<image>",
    "llava_siglip": "<image>",
    "llava_next": "<image>",
    "qwen": "<|vision_start|> <|image_pad|> <|vision_end|>",
}
IMAGE_TEXT |= {"gemma3": "<start_of_image>", "internvl": "<IMG_CONTEXT>"}
IMAGE_TEXT |= dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), IMAGE_TEXT["qwen"])


def save(name, folder):
    """Save the tiny model `name` with its processor."""
    if name == "qwen":
        model, processor = tm.qwen(rope_parameters=ROPE, **WIDE), tp.qwen(most=256 * 256)
    elif name == "llava_siglip":
        model, processor = _siglip(tm.llava(image_size=SIDE, **WIDE).config), tp.llava(SIDE)
        processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    elif name.startswith("qwen3"):
        model, processor = family_checkpoints.model(name), family_checkpoints.qwen3_processor(256 * 256)
    elif name in ("gemma3", "internvl"):
        model, processor = family_checkpoints.model(name), getattr(family_checkpoints, f"{name}_processor")()
    else:
        model = getattr(tm, name)(image_size=SIDE, **WIDE)
        processor = getattr(tp, name)(SIDE)
    _scale(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(_as_on_the_hub(name, load_file(file)), file, metadata={"format": "pt"})


def _siglip(config):
    """The tiny LLaVA with a tower that has no class token."""
    clip = config.vision_config
    sizes = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    tower = SiglipVisionConfig(**{name: getattr(clip, name) for name in sizes}, num_attention_heads=4)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower,
            text_config=config.text_config,
            image_token_id=tm.IMAGE,
            vision_feature_select_strategy="full",
        )
    ).eval()


def _scale(model):
    """Weights of the size that keeps activations near 1, so that rounding stays rounding."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= 1.3 / (weight[0].numel() ** 0.5 * weight.std())
    return model


def _as_on_the_hub(name, weights):
    """vLLM wants the names that checkpoints on the hub have; transformers saves newer ones and reads both."""
    if name.startswith(("llava", "gemma3")):
        new, old = "vision_tower.", "vision_tower.vision_model."
        return {name if old in name else name.replace(new, old): weight for name, weight in weights.items()}
    return family_checkpoints.as_on_the_hub(name, weights)


def picture(seed, width=SIDE, height=SIDE):
    """A picture of smooth random colours."""
    numbers = np.random.default_rng(seed)
    coarse = numbers.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
