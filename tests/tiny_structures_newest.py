# SPDX-License-Identifier: Apache-2.0
"""More of the tiny models of `tiny_structures`, and models that are refused."""

import torch
import transformers
from tiny_models import IMAGE, VIDEO
from tiny_structures import (
    CLIP,
    SIGLIP,
    TEXT,
    WINDOW,
    Pictures,
    Tiny,
    packed,
    plain,
    rope,
    side_by_side,
    sized,
    square,
    stacked,
)

AUDIO = 94
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
LINEAR = {
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": rope([2, 1, 1], partial_rotary_factor=0.25),
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
VIDEO_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
VISION_IDS = {**VIDEO_IDS, "vision_start_token_id": 92, "vision_end_token_id": 93}
MARKS = {
    "image_start_id": 92,
    "image_end_id": 93,
    "slice_start_id": 94,
    "slice_end_id": 96,
    "newline_id": 97,
}


def minicpm(config, **settings):
    tower = {**TOWER, "num_hidden_layers": 3, "image_size": 64}
    text = {**LINEAR, "tie_word_embeddings": False}
    return plain(config, "qwen3_5_text", tower, text, insert_layer_id=1, **VIDEO_IDS, **settings)


def minimax(kinds):
    text = {
        **TEXT,
        "head_dim": 16,
        "rotary_dim": 8,
        "dense_intermediate_size": 96,
        "shared_intermediate_size": 32,
        "intermediate_size": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
        "layer_types": kinds * 2,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    }
    return lambda: transformers.MiniMaxM3VLConfig(
        text_config=text, vision_config=TOWER, projector_hidden_size=64, **VIDEO_IDS
    )


def molmo():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    return transformers.Molmo2Config(
        text_config={**TEXT, "head_dim": 16, "additional_vocab_size": 8},
        vision_config={**TOWER, **heads, "image_size": [32, 32]},
        adapter_config={
            **heads,
            "hidden_size": 32,
            "intermediate_size": 48,
            "text_hidden_size": 64,
            "vision_feature_layer": [-1, -2],
        },
        image_patch_id=IMAGE,
        image_start_token_id=92,
        image_end_token_id=93,
        low_res_image_start_token_id=94,
        frame_start_token_id=96,
        frame_end_token_id=97,
    )


def pooled():
    """Patches of one crop for each image, and the four patches in all of them that make each token."""
    patches = torch.arange(64).view(4, 2, 4, 2).transpose(1, 2).reshape(16, 4)

    def make(k, draw):
        return {
            "pixel_values": torch.randn(k, 64, 48, generator=draw),
            "image_token_pooling": torch.cat([patches + 64 * i for i in range(k)]),
            "image_grids": torch.tensor([[4, 4, 0, 0]] * k),
        }

    def cut(inputs, start, stop):
        return {
            "pixel_values": inputs["pixel_values"][start:stop],
            "image_token_pooling": inputs["image_token_pooling"][: 16 * (stop - start)],
            "image_grids": inputs["image_grids"][start:stop],
        }

    return Pictures(make, cut)


def muse(config, text, **settings):
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    text = {**TEXT, "head_dim": 16, "sliding_window": WINDOW, "layer_types": kinds, **text}
    tower = {**TOWER, "pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64}
    del tower["image_size"]
    return lambda: getattr(transformers, config)(
        text_config=text,
        vision_config=tower,
        out_hidden_size=128,
        projector_hidden_size=32,
        **VIDEO_IDS,
        **settings,
    )


MUSE_SOUND = {
    "patch_sizes": [4, 2],
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "num_hidden_layers": 2,
    "out_hidden_size": 64,
}
MUSE_EXPERTS = {
    **EXPERTS,
    "num_local_experts": 4,
    "moe_hidden_size": 32,
    "mlp_layer_types": ["dense", "sparse"] * 2,
}


def step():
    text = {
        **TEXT,
        **EXPERTS,
        "head_dim": 16,
        "n_routed_experts": 4,
        "share_expert_dim": 32,
        "sliding_window": WINDOW,
        "num_sliding_attention_heads": 8,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
    }
    tower = {**TOWER, "patch_size": 2, "mlp_ratio": 1.5, "max_position_embeddings": 256}
    return transformers.Step3p7Config(text_config=text, vision_config=tower, image_token_id=IMAGE)


def two_views(side, local):
    """A whole view and one local view of each image."""
    return stacked(
        pixel_values=(3, side, side),
        pixel_values_local=(3, local, local),
        num_local_patches=torch.tensor([1]),
    )


def apertus():
    drawing = {
        "codebook_size": 16,
        "embed_dim": 8,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
    }
    sound = {
        "model_type": "wavtokenizer_encoder",
        "codebook_size": 8,
        "codebook_dim": 8,
        "hidden_size": 8,
        "num_filters": 2,
        "upsampling_ratios": [2, 2],
    }
    return transformers.Apertus1p5Config(
        text_config=dict(TEXT),
        vision_config=drawing,
        audio_config=sound,
        image_token_id=IMAGE,
        audio_token_id=AUDIO,
        image_token_offset=50,
        audio_token_offset=66,
    )


def granite():
    tower = {**SIGLIP, "hidden_size": 64, "patch_size": 4}
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


def emu():
    drawing = {
        "codebook_size": 16,
        "embed_dim": 4,
        "latent_channels": 4,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "hidden_size": 32,
    }
    codes = {f"<|visual token {n:06d}|>": 50 + n for n in range(16)}
    return transformers.Emu3Config(
        text_config={**TEXT, "attention_dropout": 0.0},
        vq_config=drawing,
        vocabulary_map={"<image>": IMAGE, "<|extra_200|>": 80, **codes},
    )


def compass(kinds):
    text = {
        **TEXT,
        "sliding_window": WINDOW,
        "layer_types": kinds * 2,
        "rope_parameters": {kind: rope([4, 2, 2]) for kind in kinds},
        "tie_word_embeddings": False,
    }
    return lambda: transformers.CohereCompassConfig(
        text_config=text, vision_config={**QWEN_TOWER, "deepstack_visual_indexes": [0, 1]}, **VISION_IDS
    )


def deepseek_ocr():
    sam = {
        **TOWER,
        "image_size": 64,
        "output_channels": 16,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
        "downsample_channels": [16, 32],
    }
    encoder = {**TEXT, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text = {
        **TEXT,
        **EXPERTS,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "mlp_layer_types": ["dense", "sparse"] * 2,
    }
    return transformers.DeepseekOcr2Config(
        text_config=text, vision_config={"sam_config": sam, "encoder_config": encoder}, image_token_id=IMAGE
    )


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


PLACES = torch.cartesian_prod(torch.arange(8), torch.arange(8)).flip(1)
NEWEST = {
    "minicpm_ocr": Tiny(
        "MiniCPMOcrForConditionalGeneration", minicpm("MiniCPMOcrConfig"), side_by_side(1024), n=64
    ),
    "minicpmv4_7": Tiny(
        "MiniCPMV4_7ForConditionalGeneration",
        minicpm("MiniCPMV4_7Config", image_size=64, **MARKS),
        side_by_side(1024),
        frame=(92, 93),
        kinds=True,
    ),
    "minimax_m3_full": Tiny(
        "MiniMaxM3SparseForConditionalGeneration",
        minimax(["full_attention", "full_attention"]),
        packed(64, 96),
    ),
    "molmo2": Tiny("Molmo2ForConditionalGeneration", molmo, pooled(), frame=(92, 93), kinds=True),
    "muse_glimmer": Tiny(
        "MuseGlimmerForConditionalGeneration", muse("MuseGlimmerConfig", {}), packed(64, 96)
    ),
    "muse_spark": Tiny(
        "MuseSparkForConditionalGeneration",
        muse("MuseSparkConfig", MUSE_EXPERTS, audio_config=MUSE_SOUND, audio_token_id=AUDIO),
        packed(64, 96),
    ),
    "qianfan_ocr": Tiny(
        "QianfanOCRForConditionalGeneration",
        plain(
            "QianfanOCRConfig", "qwen3", TOWER, {"head_dim": 16}, image_token_id=IMAGE, image_seq_length=16
        ),
        square(),
    ),
    "step3p7": Tiny("Step3p7ForConditionalGeneration", step, square()),
    "step3p7_views": Tiny("Step3p7ForConditionalGeneration", step, two_views(32, 16), n=20),
    "video_llava": Tiny(
        "VideoLlavaForConditionalGeneration",
        plain("VideoLlavaConfig", "llama", CLIP, image_seq_length=16, **VIDEO_IDS),
        square(),
    ),
    "apertus1p5": Tiny("Apertus1p5ForConditionalGeneration", apertus, sized()),
    "emu3": Tiny("Emu3ForConditionalGeneration", emu, sized(), n=20),
    "cohere_compass": Tiny(
        "CohereCompassForConditionalGeneration",
        compass(["full_attention", "full_attention"]),
        packed(64, 96),
        frame=(92, 93),
        kinds=True,
    ),
    "deepseek_ocr2": Tiny("DeepseekOcr2ForConditionalGeneration", deepseek_ocr, square(64), n=145),
    "deepseek_ocr2_views": Tiny(
        "DeepseekOcr2ForConditionalGeneration", deepseek_ocr, two_views(64, 48), n=289
    ),
}
REFUSED = {
    "minimax_m3": Tiny(
        "MiniMaxM3SparseForConditionalGeneration",
        minimax(["full_attention", "minimax_m3_sparse"]),
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
    "qwen4_exp": Tiny(
        "Qwen4ExpForConditionalGeneration", qwen4(), packed(64, 96), frame=(92, 93), kinds=True
    ),
    "chameleon": Tiny("ChameleonForConditionalGeneration", chameleon, square()),
    "cohere_compass_sliding": Tiny(
        "CohereCompassForConditionalGeneration",
        compass(["sliding_attention", "full_attention"]),
        packed(64, 96),
        frame=(92, 93),
        kinds=True,
    ),
    "diffusion_gemma": Tiny(
        "DiffusionGemmaForBlockDiffusion",
        diffusion,
        stacked(pixel_values=(64, 48), image_position_ids=PLACES[None]),
        frame=(92, 93),
        kinds=True,
    ),
}
