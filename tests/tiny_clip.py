# SPDX-License-Identifier: Apache-2.0
"""A tiny CLIP with a text tower, for models whose image tower is a CLIP's: what CDPruner's users bring."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenprune_adapters.clip_space import ClipSpace
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, PreTrainedTokenizerFast

SEGMENT = 8  # tokens its text tower takes
BOS, EOS = 97, 98


def tokenizer(clip):
    """Words w0 to w96 as tokens 0 to 96; CLIP's has a beginning and an end."""
    words = {f"w{i}": i for i in range(97)} | {"<bos>": BOS, "<eos>": EOS}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if clip:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core)


def space(vision_config):
    """A joint space of random weights for models with this image tower."""
    torch.manual_seed(3)
    text = CLIPTextConfig(
        vocab_size=99,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=SEGMENT,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_factor=20.0,
    )
    config = CLIPConfig(text_config=text, vision_config=vision_config)
    return ClipSpace(CLIPModel(config).eval(), tokenizer(clip=True), tokenizer(clip=False))
