# SPDX-License-Identifier: Apache-2.0
"""Create a LLaVA with about 150 million random parameters that vLLM can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PATCHES = 24  # along a side of the image
N_TOKENS = PATCHES**2
N_TOWER_BLOCKS = 7  # before the layer whose output is projected, the last but one of eight
IMAGE, WORDS = 3, 4096
MAX_LENGTH = 1024  # of prompt and answer, that the engines accept
LAYERS, KV_HEADS, HEAD_WIDTH = 12, 4, 64
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")


def configuration() -> Any:
    """Return the configuration: twelve layers of width 1024, the tower's share as in LLaVA-1.5-7B."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    tower = CLIPVisionConfig(
        image_size=336,
        patch_size=336 // PATCHES,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=4,
    )
    text = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=LAYERS,
        num_attention_heads=1024 // HEAD_WIDTH,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE)


def cache_bytes(tokens: int) -> int:
    """Return the size of the keys and values of this many tokens in float32."""
    return tokens * LAYERS * 2 * KV_HEADS * HEAD_WIDTH * 4


def save(folder: Path) -> int:
    """Save the model and a processor to `folder`; return the number of parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor

    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(configuration())
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # the names used in checkpoints on the hub
    renamed = {
        name.replace("model.vision_tower.", "vision_tower.vision_model.")
        .replace("vision_model.vision_model.", "vision_model.")
        .replace("model.language_model.", "language_model.model.")
        .replace("model.multi_modal_projector.", "multi_modal_projector.")
        .replace("lm_head.", "language_model.lm_head."): weight.contiguous()
        for name, weight in model.state_dict().items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        _tokenizer(),
        patch_size=336 // PATCHES,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {SPECIAL[i] if i < len(SPECIAL) else f"w{i}": i for i in range(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
