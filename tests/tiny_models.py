# SPDX-License-Identifier: Apache-2.0
"""Tiny models with random weights, real architectures, built from configurations; and inputs for them."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

PAD, BOS, IMAGE, VIDEO, EOS = 0, 1, 90, 91, 95
N = 16  # visual tokens of an image
DECODER = {
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


def llava(attention="sdpa", seed=0, dtype=torch.float32, image_size=32, tower_layers=3, **text):
    """LLaVA: 32-pixel images, 16 visual tokens, 4 decoder layers with grouped queries."""
    torch.manual_seed(seed)
    tower = CLIPVisionConfig(
        image_size=image_size,
        patch_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=tower_layers,
        num_attention_heads=4,
        initializer_range=0.3,
        initializer_factor=10.0,
    )
    config = LlavaConfig(
        vision_config=tower, text_config=LlamaConfig(**{**DECODER, **text}), image_token_id=IMAGE
    )
    return _ready(LlavaForConditionalGeneration(config).to(dtype), attention)


def pixtral_llava():
    """LLaVA with Pixtral's tower, which keeps a picture's shape: patches of 8 pixels, up to 48 x 48."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(image_size=48, patch_size=8, **sizes),
        text_config=LlamaConfig(**DECODER),
        image_token_id=IMAGE,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config).eval()


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


# -- LLaVA-NeXT: 16 tokens a tile, canvases of 1 x 2, 2 x 1 and 2 x 2 tiles


def llava_next(attention="sdpa", seed=0, image_size=32, **text):
    """LLaVA-NeXT with the tower and decoder of the tiny LLaVA."""
    plain = llava(attention, seed, image_size=image_size, **text).config
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=plain.vision_config,
        text_config=plain.text_config,
        image_token_id=IMAGE,
        image_grid_pinpoints=[[image_size * h, image_size * w] for h, w in ((1, 2), (2, 1), (2, 2))],
    )
    return _ready(LlavaNextForConditionalGeneration(config), attention)


def llava_next_inputs(model, rows, sizes, seed=1):
    """Inputs from rows of text lengths and "I", and the (height, width) of each picture in order."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(sizes)
    counts = [
        image_size_to_num_patches(
            image_size=s, grid_pinpoints=model.config.image_grid_pinpoints, patch_size=32
        )
        for s in sizes
    ]
    pixels = torch.zeros(len(sizes), max(counts), 3, 32, 32)
    for i, n in enumerate(counts):
        pixels[i, :n] = torch.randn(n, 3, 32, 32, generator=generator)
    features = model.model.get_image_features(pixels, sizes).pooler_output
    lengths = iter([len(f) for f in features])
    tokens = []
    for row in rows:
        ids = [BOS]
        for part in row:
            is_image = part == "I"
            n = next(lengths) if is_image else part
            text = torch.randint(2, 89, (n,), generator=generator).tolist()
            ids += [IMAGE] * n if is_image else text
        tokens.append(ids)
    return {**batch(tokens), "pixel_values": pixels, "image_sizes": sizes}


# -- Qwen2.5-VL: 4-pixel patches merged by four, windows of 2 x 2 tokens


def qwen(attention="sdpa", seed=0, **text):
    """Qwen2.5-VL with two blocks, the last of which sees the whole picture."""
    torch.manual_seed(seed)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": text.get("hidden_size", DECODER["hidden_size"]),
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "initializer_range": 0.3,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**DECODER, "rope_parameters": rope, **text}
    config = Qwen2_5_VLConfig(
        text_config=Qwen2_5_VLTextConfig(**text).to_dict(),
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    return _ready(Qwen2_5_VLForConditionalGeneration(config), attention)


def qwen_inputs(*rows, seed=1):
    """Inputs from rows of text lengths, ("I", h, w) and ("V", t, h, w) in tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens, grids, pixels = [], {"I": [], "V": []}, {"I": [], "V": []}
    for row in rows:
        ids = [BOS]
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(2, 89, (part,), generator=generator).tolist()
                continue
            t, h, w = (1, *part[1:]) if part[0] == "I" else part[1:]
            grids[part[0]].append([t, 2 * h, 2 * w])
            pixels[part[0]].append(torch.randn(t * 4 * h * w, 3 * 2 * 4 * 4, generator=generator))
            ids += [92, *[IMAGE if part[0] == "I" else VIDEO] * (t * h * w), 93]
        tokens.append(ids)
    inputs = batch(tokens)
    if grids["I"]:
        inputs |= {"pixel_values": torch.cat(pixels["I"]), "image_grid_thw": torch.tensor(grids["I"])}
    if grids["V"]:
        inputs |= {
            "pixel_values_videos": torch.cat(pixels["V"]),
            "video_grid_thw": torch.tensor(grids["V"]),
            "second_per_grid_ts": torch.tensor([1.0] * len(grids["V"])),
        }
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int() + 2 * (
        inputs["input_ids"] == VIDEO
    ).int()
    return inputs


def packed_rows(inputs):
    """Each row of `qwen_inputs` with one picture a row, alone and without its padding."""
    start = 0
    for row, (t, h, w) in enumerate(inputs["image_grid_thw"].tolist()):
        alone = {name: value[row : row + 1] for name, value in inputs.items() if name != "pixel_values"}
        real = alone["attention_mask"][0].bool()
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            alone[name] = alone[name][:, real]
        yield alone | {"pixel_values": inputs["pixel_values"][start : start + t * h * w]}
        start += t * h * w


def _ready(model, attention):
    model.eval().set_attn_implementation(attention)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model
