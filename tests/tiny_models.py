# SPDX-License-Identifier: Apache-2.0
"""Tiny models with random weights, real architectures, built from configurations; and inputs for them."""

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

PAD, BOS, IMAGE, EOS = 0, 1, 90, 95
N = 16  # visual tokens of an image


def llava(attention="sdpa", seed=0, dtype=torch.float32, image_size=32, **text):
    """LLaVA: 32-pixel images, 16 visual tokens, 4 decoder layers with grouped queries."""
    torch.manual_seed(seed)
    tower = CLIPVisionConfig(
        image_size=image_size,
        patch_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.3,
        initializer_factor=10.0,
    )
    decoder = {
        "vocab_size": 99,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "initializer_range": 0.25,
    }
    config = LlavaConfig(
        vision_config=tower, text_config=LlamaConfig(**{**decoder, **text}), image_token_id=IMAGE
    )
    model = LlavaForConditionalGeneration(config).to(dtype).eval()
    model.set_attn_implementation(attention)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model


def batch(rows, pixel_values=None):
    """Left-padded batch of token lists."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if pixel_values is None else {**inputs, "pixel_values": pixel_values}


def llava_inputs(*rows, seed=1):
    """Inputs from rows of text lengths and "I" for an image, e.g. (3, "I", 5), (2, "I", 4, "I", 3), (6,)."""
    generator = torch.Generator().manual_seed(seed)
    tokens, n_images = [], 0
    for row in rows:
        ids = [BOS]
        for part in row:
            if part == "I":
                ids += [IMAGE] * N
                n_images += 1
            else:
                ids += torch.randint(2, 89, (part,), generator=generator).tolist()
        tokens.append(ids)
    pixels = torch.randn(n_images, 3, 32, 32, generator=generator) if n_images else None
    return batch(tokens, pixels)


def cut_row(inputs, row):
    """One row of a batch alone, its padding and the other rows' images gone."""
    real = inputs["attention_mask"][row].bool()
    alone = {name: inputs[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
    counts = [int(n) // N for n in (inputs["input_ids"] == IMAGE).sum(1)]
    start = sum(counts[:row])
    if counts[row]:
        alone["pixel_values"] = inputs["pixel_values"][start : start + counts[row]]
    return alone
