# SPDX-License-Identifier: Apache-2.0
"""More of the tiny models of `tiny_structures`."""

import torch
import transformers
from tiny_models import IMAGE, VIDEO
from tiny_structures import (
    PACKED_TOWER,
    SIGLIP,
    TEXT,
    WINDOW,
    Pictures,
    Tiny,
    packed,
    plain,
    rope,
    square,
    stacked,
)

IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
ENDS = {"vision_start_token_id": 92, "vision_end_token_id": 93}
MARKS = {
    "image_start_token_id": 92,
    "image_end_token_id": 93,
    "video_start_token_id": 96,
    "video_end_token_id": 97,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 4,
}
SCALES = {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.5,
    "logits_scaling": 2.0,
}
CONVNEXT = {"architecture": "test_convnext", "do_pooling": False, "hidden_size": 64}
PERCEPTION = {
    "model_type": "timm_wrapper",
    "architecture": "test_vit",
    "model_args": {"embed_dim": 64, "img_size": [64, 64], "patch_size": [16, 16], "global_pool": ""},
    "do_pooling": False,
}
PLACES = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1)[None]


def patches(n, width):
    """Patches of all images one after the other, n for each."""
    return Pictures(
        lambda k, draw: {"pixel_values": torch.randn(k * n, width, generator=draw)},
        lambda inputs, start, stop: {"pixel_values": inputs["pixel_values"][start * n : stop * n]},
    )


def cosmos_edge():
    return transformers.Cosmos3EdgeConfig(
        text_config={**TEXT, "head_dim": 16, "rope_parameters": rope([4, 2, 2])},
        vision_config={**TOWER, "num_patches": 64},
        projector_hidden_size=64,
        **IDS,
        **ENDS,
    )


def cosmos_omni():
    tower = {**PACKED_TOWER, "depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return transformers.Cosmos3OmniConfig(
        text_config={
            **TEXT,
            "model_type": "qwen3_vl_text",
            "head_dim": 16,
            "rope_parameters": rope([4, 2, 2]),
        },
        vision_config={**tower, "model_type": "qwen3_vl_vision"},
        **IDS,
        **ENDS,
    )


def deepseek_hybrid():
    fine = {
        "model_type": "sam_vision_model",
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
    return transformers.DeepseekVLHybridConfig(
        text_config={**TEXT, "model_type": "llama"},
        vision_config=dict(SIGLIP),
        high_res_vision_config=fine,
        image_token_id=IMAGE,
    )


def ernie():
    text = {
        **TEXT,
        "rope_parameters": rope([3, 3, 2]),
        "moe_intermediate_size": [32, 24],
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
    }
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4}
    return transformers.Ernie4_5_VLMoeConfig(text_config=text, vision_config=tower, **IDS, **MARKS)


def fuyu():
    return transformers.FuyuConfig(
        text_config={**TEXT, "model_type": "persimmon"}, image_size=32, patch_size=8, image_token_id=IMAGE
    )


def glm_ocr():
    text = {name: value for name, value in TEXT.items() if name not in ("bos_token_id", "eos_token_id")}
    return transformers.GlmOcrConfig(
        text_config={**text, "rope_parameters": rope([2, 1, 1], partial_rotary_factor=0.5)},
        vision_config={**PACKED_TOWER, "image_size": 32},
        **IDS,
        **MARKS,
    )


def granite_docling():
    tower = {
        **TOWER,
        "num_hidden_layers": 3,
        "image_size": 32,
        "out_hidden_size": 64,
        "scale_factor": 2,
        "deepstack_visual_indexes": [0, 1],
        "use_fine_route": False,
    }
    return transformers.GraniteDoclingConfig(
        text_config={**TEXT, **SCALES}, vision_config=tower, image_token_id=IMAGE
    )


def hyperclova():
    tower = {
        **PACKED_TOWER,
        "model_type": "qwen2_5_vl_vision",
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return transformers.HyperCLOVAXVisionV2Config(
        text_config={**TEXT, **SCALES, "logits_scaling": 0.5, "model_type": "hyperclovax"},
        vision_config=tower,
        **IDS,
    )


def idefics2():
    resampler = {
        "hidden_size": 64,
        "resampler_n_latents": 8,
        "resampler_depth": 2,
        "resampler_n_heads": 4,
        "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }
    return transformers.Idefics2Config(
        text_config={**TEXT, "model_type": "mistral", "sliding_window": None},
        vision_config={**TOWER, "image_size": 32},
        perceiver_config=resampler,
        image_token_id=IMAGE,
    )


def lfm3():
    text = {
        **TEXT,
        "model_type": "lfm3",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": ["conv", "sliding_attention", "conv", "full_attention"],
        "conv_L_cache": 3,
    }
    tower = {**TOWER, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
    return transformers.Lfm3VlConfig(
        text_config=text, vision_config=tower, projector_hidden_size=32, **IDS, **ENDS
    )


def gemma4_unified():
    text = {
        **TEXT,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    tower = {
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "mm_embed_dim": 32,
        "mm_posemb_size": 16,
        "output_proj_dims": 32,
    }
    return transformers.Gemma4UnifiedConfig(
        text_config=text,
        vision_config=tower,
        boi_token_id=92,
        eoi_token_id=93,
        audio_token_id=94,
        **IDS,
    )


def gemma3n():
    text = {
        **TEXT,
        "head_dim": 16,
        "sliding_window": WINDOW,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "intermediate_size": [96] * 6,
        "activation_sparsity_pattern": [0.0] * 6,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 89,
        "num_kv_shared_layers": 2,
        "altup_num_inputs": 2,
        "laurel_rank": 8,
    }
    tower = {**CONVNEXT, "vocab_size": 4, "vocab_offset": 89}
    hearing = {
        "vocab_size": 6,
        "vocab_offset": 93,
        "hidden_size": 32,
        "input_feat_size": 32,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [8, 8],
    }
    return transformers.Gemma3nConfig(
        text_config=text,
        vision_config=tower,
        audio_config=hearing,
        image_token_id=IMAGE,
        audio_token_id=94,
        vision_soft_tokens_per_image=16,
        boi_token_id=85,
        eoi_token_id=92,
        boa_token_id=95,
        eoa_token_id=96,
    )


MORE = {
    "cosmos3_edge": Tiny(
        "Cosmos3EdgeForConditionalGeneration", cosmos_edge, packed(64, 48), frame=(92, 93), kinds=True
    ),
    "cosmos3_omni": Tiny(
        "Cosmos3OmniForConditionalGeneration", cosmos_omni, packed(64, 96), frame=(92, 93), kinds=True
    ),
    "deepseek_vl_hybrid": Tiny(
        "DeepseekVLHybridForConditionalGeneration",
        deepseek_hybrid,
        stacked(pixel_values=(3, 32, 32), high_res_pixel_values=(3, 64, 64)),
    ),
    "ernie4_5_vl_moe": Tiny(
        "Ernie4_5_VLMoeForConditionalGeneration", ernie, packed(64, 48), frame=(92, 93), kinds=True
    ),
    "fast_vlm": Tiny(
        "FastVlmForConditionalGeneration",
        plain("FastVlmConfig", "qwen2", {**CONVNEXT, "model_type": "timm_wrapper"}, image_token_id=IMAGE),
        square(128),
    ),
    "fuyu": Tiny("FuyuForCausalLM", fuyu, patches(16, 192)),
    "glm_ocr": Tiny("GlmOcrForConditionalGeneration", glm_ocr, packed(64, 96), frame=(92, 93), kinds=True),
    "granite_docling": Tiny(
        "GraniteDoclingForConditionalGeneration",
        granite_docling,
        stacked(pixel_values=(1, 3, 32, 32), pixel_attention_mask=torch.ones(1, 1, dtype=torch.bool)),
    ),
    "hyperclovax_vision_v2": Tiny("HyperCLOVAXVisionV2ForConditionalGeneration", hyperclova, packed(64, 96)),
    "idefics2": Tiny("Idefics2ForConditionalGeneration", idefics2, stacked(pixel_values=(1, 3, 32, 32)), n=8),
    "lfm3_vl": Tiny("Lfm3VlForConditionalGeneration", lfm3, packed(64, 96)),
    "gemma4_unified": Tiny(
        "Gemma4UnifiedForConditionalGeneration",
        gemma4_unified,
        stacked(pixel_values=(16, 192), image_position_ids=PLACES),
        frame=(92, 93),
        kinds=True,
    ),
    "gemma3n": Tiny("Gemma3nForConditionalGeneration", gemma3n, square(128), frame=(85, 92)),
    "perception_lm": Tiny(
        "PerceptionLMForConditionalGeneration",
        plain(
            "PerceptionLMConfig",
            "llama",
            PERCEPTION,
            vision_use_cls_token=True,
            projector_pooling_ratio=1,
            **IDS,
        ),
        stacked(pixel_values=(1, 3, 64, 64)),
    ),
}
