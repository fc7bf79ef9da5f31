# SPDX-License-Identifier: Apache-2.0
"""Tiny models of families that are supported by their structure, and their pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from tiny_models import DECODER, IMAGE, VIDEO

TEXT = {name: value for name, value in DECODER.items() if name != "initializer_range"}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
PACKED_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "out_hidden_size": 64,
}
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 4,
    "head_dim": 8,
}
WINDOW = 12  # less than an image


def rope(sections, **more):
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more}


@dataclass(frozen=True)
class Pictures:
    """How a family takes pictures: makes those of k images, and takes some of them out of a batch."""

    make: Callable
    cut: Callable


def stacked(**shapes):
    """One entry for each image along the first axis, random or fixed."""

    def make(k, draw):
        return {
            name: torch.randn(k, *shape, generator=draw)
            if isinstance(shape, tuple)
            else shape.repeat(k, *[1] * (shape.ndim - 1))
            for name, shape in shapes.items()
        }

    return Pictures(make, lambda inputs, start, stop: {name: inputs[name][start:stop] for name in shapes})


def packed(n, *shape, more=None, grid=(1, 8, 8)):
    """Patches of all images one after the other, n for each, and their grids."""
    more = more or {}

    def make(k, draw):
        fixed = {name: value.repeat(k, *[1] * (value.ndim - 1)) for name, value in more.items()}
        pixels = torch.randn(k * n, *shape, generator=draw)
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor([grid] * k), **fixed}

    def cut(inputs, start, stop):
        each = {name: inputs[name][start:stop] for name in ("image_grid_thw", *more)}
        return {"pixel_values": inputs["pixel_values"][start * n : stop * n], **each}

    return Pictures(make, cut)


def square(side=32):
    return stacked(pixel_values=(3, side, side))


def sized(side=32):
    return stacked(pixel_values=(3, side, side), image_sizes=torch.tensor([[side, side]]))


@dataclass(frozen=True)
class Tiny:
    """A family: its class, configuration, pictures, tokens of an image, and tokens around an image."""

    model: str
    config: Callable
    pictures: Pictures
    n: int = 16
    frame: tuple[int, ...] = ()
    kinds: bool = False  # whether tokens are marked as an image's, for positions of three axes


def plain(config, text, vision=None, more=None, **settings):
    """A configuration with a decoder of a kind and a tower."""
    return lambda: getattr(transformers, config)(
        text_config={**TEXT, "model_type": text, **(more or {})},
        vision_config=dict(vision or SIGLIP),
        **settings,
    )


def exaone():
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    text = {**TEXT, "model_type": "exaone4", "sliding_window": WINDOW, "layer_types": kinds}
    tower = {**PACKED_TOWER, "num_key_value_heads": 2, "window_size": 16, "fullatt_block_indexes": [1]}
    return transformers.Exaone4_5_Config(
        text_config=text, vision_config=tower, image_token_id=IMAGE, video_token_id=VIDEO
    )


def kimi():
    text = {
        **TEXT,
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "qk_nope_head_dim": 8,
    }
    tower = {
        "patch_size": 4,
        "pos_emb_height": 8,
        "pos_emb_width": 8,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
    }
    return transformers.Kimi_K25Config(
        text_config=text,
        vision_config=tower,
        projection_hidden_size=32,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )


def lfm2():
    text = {
        **TEXT,
        "model_type": "lfm2",
        "num_hidden_layers": 5,
        "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": 3,
    }
    tower = {
        "model_type": "siglip2_vision_model",
        "vision_use_head": False,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 4,
        "num_patches": 64,
    }
    return transformers.Lfm2VlConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=IMAGE,
        projector_hidden_size=32,
        downsample_factor=2,
    )


def paddle():
    text = {**TEXT, "head_dim": 16, "rope_parameters": rope([2, 3, 3])}
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    return transformers.PaddleOCRVLConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )


def got_ocr():
    tower = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 4,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
    }
    return transformers.GotOcr2Config(
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config=tower,
        image_token_id=IMAGE,
        image_seq_length=16,
    )


def ovis():
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "vocab_size": 40,
        "num_visual_indicator_tokens": 5,
    }
    return transformers.Ovis2Config(
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config=tower,
        image_token_id=IMAGE,
        visual_indicator_token_ids=[80, 81, 82, 83, 84],
        vocab_size=99,
        hidden_size=64,
    )


def janus():
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 64,
        "num_image_tokens": 16,
    }
    drawing = {
        "embed_dim": 8,
        "num_embeddings": 32,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "num_patches": 4,
        "projection_dim": 64,
        "image_token_embed_dim": 64,
    }
    return transformers.JanusConfig(
        text_config={**TEXT, "model_type": "llama"},
        vision_config=tower,
        vq_config=drawing,
        image_token_id=IMAGE,
    )


def video_llama():
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 4,
    }
    return transformers.VideoLlama3Config(
        text_config={**TEXT, "model_type": "qwen2"},
        vision_config=tower,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )


def aria():
    text = {
        **TEXT,
        "model_type": "aria_text",
        "moe_num_experts": 4,
        "moe_topk": 2,
        "moe_num_shared_experts": 1,
    }
    tower = {
        "model_type": "idefics3_vision",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return transformers.AriaConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=IMAGE,
        projector_patch_to_query_dict={16: 8},
    )


def minicpm():
    text = {
        **TEXT,
        "model_type": "qwen3_5_text",
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "rope_parameters": rope([2, 1, 1], partial_rotary_factor=0.25),
    }
    tower = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 4,
    }
    return transformers.MiniCPMV4_6Config(
        text_config=text,
        vision_config=tower,
        insert_layer_id=1,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_size=64,
    )


def side_by_side(width):
    """Pixels of all images along the last axis, `width` columns for each, and their sizes in patches."""

    def make(k, draw):
        return {
            "pixel_values": torch.randn(1, 3, 4, k * width, generator=draw),
            "target_sizes": torch.tensor([[16, 16]] * k, dtype=torch.int32),
        }

    def cut(inputs, start, stop):
        pixels = inputs["pixel_values"][..., start * width : stop * width]
        return {"pixel_values": pixels, "target_sizes": inputs["target_sizes"][start:stop]}

    return Pictures(make, cut)


COHERE = {
    "sliding_window": WINDOW,
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
FINE = {**SIGLIP, "patch_size": 4}
LFM_PICTURES = stacked(
    pixel_values=(64, 48),
    spatial_shapes=torch.tensor([[8, 8]]),
    pixel_attention_mask=torch.ones(1, 64, dtype=torch.long),
)
STRUCTURES = {
    "cohere2_vision": Tiny(
        "Cohere2VisionForConditionalGeneration",
        plain(
            "Cohere2VisionConfig",
            "cohere2",
            FINE,
            COHERE,
            image_token_id=IMAGE,
            alignment_intermediate_size=64,
        ),
        square(),
    ),
    "exaone4_5": Tiny("Exaone4_5_ForConditionalGeneration", exaone, packed(64, 96)),
    "kimi_k25": Tiny("Kimi_K25ForConditionalGeneration", kimi, packed(64, 3, 4, 4)),
    "lfm2_vl": Tiny("Lfm2VlForConditionalGeneration", lfm2, LFM_PICTURES),
    "paddleocr_vl": Tiny(
        "PaddleOCRVLForConditionalGeneration", paddle, packed(64, 3, 4, 4), frame=(92, 93), kinds=True
    ),
    "got_ocr2": Tiny("GotOcr2ForConditionalGeneration", got_ocr, square(64)),
    "ovis2": Tiny("Ovis2ForConditionalGeneration", ovis, square()),
    "deepseek_vl": Tiny(
        "DeepseekVLForConditionalGeneration",
        plain("DeepseekVLConfig", "llama", image_token_id=IMAGE),
        square(),
    ),
    "janus": Tiny("JanusForConditionalGeneration", janus, square()),
    "video_llama_3": Tiny(
        "VideoLlama3ForConditionalGeneration",
        video_llama,
        packed(64, 48, more={"image_merge_sizes": torch.tensor([2])}),
    ),
    "vipllava": Tiny(
        "VipLlavaForConditionalGeneration",
        plain(
            "VipLlavaConfig",
            "llama",
            CLIP,
            image_token_id=IMAGE,
            vision_feature_layers=[-1, -2],
            image_seq_length=16,
        ),
        square(),
    ),
    "llava_next_video": Tiny(
        "LlavaNextVideoForConditionalGeneration",
        plain(
            "LlavaNextVideoConfig",
            "llama",
            CLIP,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_feature_layer=-1,
            image_grid_pinpoints=[[32, 32], [32, 64]],
            image_seq_length=16,
        ),
        stacked(pixel_values=(3, 3, 32, 32), image_sizes=torch.tensor([[32, 64]])),
        n=16 + 4 * 9,
    ),
    "aria": Tiny("AriaForConditionalGeneration", aria, square(), n=8),
    "lighton_ocr": Tiny(
        "LightOnOcrForConditionalGeneration",
        plain("LightOnOcrConfig", "qwen3", PIXTRAL, {"head_dim": 16}, image_token_id=IMAGE),
        sized(),
    ),
    "minicpmv4_6": Tiny("MiniCPMV4_6ForConditionalGeneration", minicpm, side_by_side(1024)),
}
