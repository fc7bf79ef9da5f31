# SPDX-License-Identifier: Apache-2.0
"""Tiny models that are refused, by families that the table `FAMILIES` does not have or by their settings."""

import torch
import transformers
from tiny_models import IMAGE, VIDEO
from tiny_structures import MARKED, TEXT, Tiny, config_of, packed, settings_of, square, stacked

WINDOW = 12  # less than an image
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 4,
}
QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 4,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
VISION_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
PLACES = torch.cartesian_prod(torch.arange(8), torch.arange(8)).flip(1)


def rope(sections, **more):
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more}


LINEAR = {
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": rope([2, 1, 1], partial_rotary_factor=0.25),
}


def with_layers(name, kinds, **more):
    """The configuration of a specimen, with other kinds of layers."""
    settings = settings_of(name)
    settings["text_config"] |= {"layer_types": kinds * 2, **more}
    return config_of(settings)


def granite():
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER, "hidden_size": 64}
    return transformers.Granite4VisionConfig(
        text_config={**TEXT, "embedding_multiplier": 2.0, "attention_multiplier": 0.25},
        vision_config=tower,
        qformer_config={
            "model_type": "blip_2_qformer",
            "num_hidden_layers": 1,
            "intermediate_size": 48,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        image_token_index=IMAGE,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[32, 32], [32, 64]],
        downsample_rate="1/2",
        deepstack_layer_map=[[-2, 0]],
        spatial_target_layers=[1, 2, 3],
    )


def hunyuan(sections):
    text = {**TEXT, "head_dim": 16, "rope_parameters": rope(sections)}
    tower = {**TOWER, "out_hidden_size": 64, "max_image_size": 32, "min_image_size": 16}
    del tower["image_size"]
    return lambda: transformers.HunYuanVLConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=IMAGE,
        im_start_id=92,
        im_end_id=93,
        im_newline_id=94,
    )


def qwen4(**more):
    text = {
        **TEXT,
        **LINEAR,
        **EXPERTS,
        "shared_expert_intermediate_size": 32,
        "num_experts": 4,
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "hc_count": 2,
        "hc_lowrank": 8,
        **more,
    }
    del text["intermediate_size"]
    return lambda: transformers.Qwen4ExpConfig(text_config=text, vision_config=QWEN_TOWER, **VISION_IDS)


NGRAMS = {
    "ple_layer_ids": [1],
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
}


def chameleon():
    drawing = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 8,
        "resolution": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
    }
    codes = {f"IMGIMG{'ABCDEFGHIJ'[n // 10]}{'ABCDEFGHIJ'[n % 10]}Z": 50 + n for n in range(16)}
    return transformers.ChameleonConfig(**TEXT, vq_config=drawing, vocabulary_map={"<image>": IMAGE, **codes})


def diffusion():
    text = {
        **TEXT,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "use_bidirectional_attention": "vision",
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "num_global_key_value_heads": 1,
    }
    tower = {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
    }
    return transformers.DiffusionGemmaConfig(
        text_config=text,
        vision_config=tower,
        boi_token_id=92,
        eoi_token_id=93,
        image_token_id=IMAGE,
        canvas_length=8,
    )


def compass():
    kinds = ["sliding_attention", "full_attention"]
    ropes = dict.fromkeys(kinds, rope([2, 1, 1]))
    return with_layers("cohere-compass", kinds, sliding_window=WINDOW, rope_parameters=ropes)


REFUSED = {
    "minimax_m3": Tiny(
        "MiniMaxM3SparseForConditionalGeneration",
        lambda: with_layers("minimax-m3", ["full_attention", "minimax_m3_sparse"]),
        packed(64, 96),
    ),
    "granite4_vision": Tiny(
        "Granite4VisionForConditionalGeneration",
        granite,
        stacked(pixel_values=(3, 3, 32, 32), image_sizes=torch.tensor([[32, 64]])),
        n=16 + 4 * 9,
    ),
    "hunyuan_vl": Tiny(
        "HunYuanVLForConditionalGeneration", hunyuan([2, 2, 2, 2]), packed(64, 48), n=22, kinds=True
    ),
    "qwen4_exp": Tiny("Qwen4ExpForConditionalGeneration", qwen4(), packed(64, 96), **MARKED),
    "chameleon": Tiny("ChameleonForConditionalGeneration", chameleon, square()),
    "cohere_compass_sliding": Tiny(
        "CohereCompassForConditionalGeneration",
        compass,
        packed(64, 96),
        **MARKED,
    ),
    "diffusion_gemma": Tiny(
        "DiffusionGemmaForBlockDiffusion",
        diffusion,
        stacked(pixel_values=(64, 48), image_position_ids=PLACES[None]),
        **MARKED,
    ),
}
