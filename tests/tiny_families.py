# SPDX-License-Identifier: Apache-2.0
"""Tiny models of the families beyond the main three, real architectures with random weights; their inputs."""

import functools

import torch
import transformers
from tiny_models import BOS, DECODER, IMAGE, PAD, VIDEO, batch, qwen_inputs
from tiny_structures import STRUCTURES
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeTextConfig

import tokenprune

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
}
SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER}
QWEN_TOWER = {"num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN3_5_TOWER = {
    **QWEN_TOWER,
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
}
QWEN3_TOWER = {**QWEN3_5_TOWER, "depth": 3, "deepstack_visual_indexes": [0, 1]}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LINEAR = {  # three layers of linear attention, then one of full attention, which has positions of three axes
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.25,
    },
}
IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
WINDOW = 12  # of Gemma's sliding layers: less than an image
PACKED = ("qwen", "glm")  # families whose pixels are packed patches
GEMMA4 = ("gemma4_e", "gemma4")


def text(config, **more):
    """Settings of a decoder of four layers with grouped queries."""
    plain = {name: value for name, value in DECODER.items() if name != "initializer_range"}
    return config(**{**plain, **more}).to_dict()


def mrope(config, sections, **more):
    """Settings of a decoder with three position axes."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    return text(config, rope_parameters=rope, **more)


def qwen2_vl():
    tower = {**QWEN_TOWER, "depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    decoder = mrope(Qwen2VLTextConfig, [2, 3, 3])
    return transformers.Qwen2VLConfig(text_config=decoder, vision_config=tower, **IDS)


def qwen3_vl():
    decoder = mrope(Qwen3VLTextConfig, [4, 2, 2], head_dim=16)
    return transformers.Qwen3VLConfig(text_config=decoder, vision_config=QWEN3_TOWER, **IDS)


def qwen3_vl_moe():
    decoder = mrope(Qwen3VLMoeTextConfig, [4, 2, 2], head_dim=16, **EXPERTS)
    return transformers.Qwen3VLMoeConfig(text_config=decoder, vision_config=QWEN3_TOWER, **IDS)


def qwen3_5():
    decoder = text(Qwen3_5TextConfig, **LINEAR)
    return transformers.Qwen3_5Config(text_config=decoder, vision_config=QWEN3_5_TOWER, **IDS)


def qwen3_5_moe():
    more = {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32}
    decoder = text(Qwen3_5MoeTextConfig, **more)
    return transformers.Qwen3_5MoeConfig(text_config=decoder, vision_config=QWEN3_5_TOWER, **IDS)


def glm4v(config=transformers.Glm4vConfig, **more):
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "out_hidden_size": 64,
        "intermediate_size": 48,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    decoder = {name: value for name, value in DECODER.items() if name != "initializer_range"}
    decoder["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.5,
    }
    decoder |= more
    if config is transformers.Glm46VConfig:  # it names no model types of its own
        decoder["model_type"], tower["model_type"] = "glm4v_text", "glm4v_vision"
    return config(
        text_config=decoder,
        vision_config=tower,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=92,
        image_end_token_id=93,
        video_start_token_id=96,
        video_end_token_id=97,
    )


def glm4v_moe():
    return glm4v(
        transformers.Glm4vMoeConfig,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        head_dim=16,
    )


AUDIO_TOWER = {
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "output_dim": 64,
    "n_window": 4,
    "max_source_positions": 64,
}
AUDIO_IDS = {"audio_token_id": 94, "audio_start_token_id": 96, "audio_end_token_id": 97}


def without_kind(settings):
    return {name: value for name, value in settings.items() if name != "model_type"}


def qwen2_5_omni():
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }
    return transformers.Qwen2_5OmniThinkerConfig(
        text_config=without_kind(mrope(Qwen2VLTextConfig, [2, 3, 3])),
        vision_config=tower,
        audio_config=AUDIO_TOWER,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_token_index=94,
        audio_start_token_id=96,
        audio_end_token_id=97,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )


def qwen3_omni():
    whole = qwen3_vl_moe()
    audio = {**AUDIO_TOWER, "downsample_hidden_size": 8, "n_window_infer": 16, "n_window": 8}
    return transformers.Qwen3OmniMoeThinkerConfig(
        text_config=without_kind(whole.text_config.to_dict()),
        vision_config=without_kind(whole.vision_config.to_dict()),
        audio_config=audio,
        **IDS,
        **AUDIO_IDS,
    )


def internvl():
    tower = {**TOWER, "image_size": [32, 32], "patch_size": [4, 4]}
    decoder = text(transformers.Qwen2Config)
    return transformers.InternVLConfig(
        vision_config=tower,
        text_config=decoder,
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )


def gemma3():
    kinds = ["sliding_attention", "full_attention"] * 2
    decoder = text(
        transformers.Gemma3TextConfig,
        head_dim=16,
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        layer_types=kinds,
    )
    return transformers.Gemma3Config(
        vision_config={**TOWER, "vision_use_head": False},
        text_config=decoder,
        image_token_id=IMAGE,
        mm_tokens_per_image=16,
        boi_token_index=92,
        eoi_token_index=93,
    )


def gemma4(kinds, **more):
    tower = {
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
    decoder = text(
        transformers.Gemma4TextConfig,
        head_dim=16,
        global_head_dim=32,
        sliding_window=5,
        layer_types=kinds,
        num_hidden_layers=len(kinds),
        vocab_size_per_layer_input=99,
        **more,
    )
    return transformers.Gemma4Config(
        text_config=decoder,
        vision_config=tower,
        audio_config=None,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=94,
        boi_token_id=92,
        eoi_token_id=93,
    )


def gemma4_e():
    """The E sizes: inputs of single layers, and two layers that share keys and values."""
    kinds = ["sliding_attention", "full_attention"] * 3
    more = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2}
    return gemma4(kinds, use_bidirectional_attention=None, **more)


def gemma4_large():
    """The larger sizes: image tokens attend to each other inside the windows; experts."""
    return gemma4(
        ["sliding_attention", "full_attention"] * 2,
        use_bidirectional_attention="vision",
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=32,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    )


def llava_onevision():
    return transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config=text(transformers.Qwen2Config),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[32, 32], [32, 64]],
        vision_feature_layer=-1,
    )


def smolvlm(config=transformers.SmolVLMConfig):
    decoder = text(transformers.LlamaConfig)
    return config(
        vision_config=TOWER, text_config=decoder, image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD
    )


def mistral3():
    tower = {**TOWER, "model_type": "pixtral", "patch_size": 4, "head_dim": 8}
    decoder = text(transformers.MistralConfig, head_dim=16, sliding_window=None)
    return transformers.Mistral3Config(
        vision_config=tower, text_config=decoder, image_token_id=IMAGE, spatial_merge_size=2
    )


def paligemma():
    return transformers.PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 64},
        text_config=text(transformers.GemmaConfig, head_dim=16),
        image_token_id=IMAGE,
        projection_dim=64,
    )


def aya_vision():
    return transformers.AyaVisionConfig(
        vision_config={**SIGLIP, "patch_size": 4},
        text_config=text(transformers.CohereConfig),
        image_token_id=IMAGE,
        downsample_factor=2,
        vision_feature_layer=-1,
    )


CLASSES = {
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", qwen2_vl),
    "qwen3_vl": ("Qwen3VLForConditionalGeneration", qwen3_vl),
    "qwen3_vl_moe": ("Qwen3VLMoeForConditionalGeneration", qwen3_vl_moe),
    "qwen3_5": ("Qwen3_5ForConditionalGeneration", qwen3_5),
    "qwen3_5_moe": ("Qwen3_5MoeForConditionalGeneration", qwen3_5_moe),
    "qwen2_5_omni": ("Qwen2_5OmniThinkerForConditionalGeneration", qwen2_5_omni),
    "qwen3_omni": ("Qwen3OmniMoeThinkerForConditionalGeneration", qwen3_omni),
    "glm4v": ("Glm4vForConditionalGeneration", glm4v),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration", glm4v_moe),
    "glm46v": ("Glm46VForConditionalGeneration", functools.partial(glm4v, transformers.Glm46VConfig)),
    "internvl": ("InternVLForConditionalGeneration", internvl),
    "gemma3": ("Gemma3ForConditionalGeneration", gemma3),
    "gemma4_e": ("Gemma4ForConditionalGeneration", gemma4_e),
    "gemma4": ("Gemma4ForConditionalGeneration", gemma4_large),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", llava_onevision),
    "smolvlm": ("SmolVLMForConditionalGeneration", smolvlm),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        functools.partial(smolvlm, transformers.Idefics3Config),
    ),
    "mistral3": ("Mistral3ForConditionalGeneration", mistral3),
    "paligemma": ("PaliGemmaForConditionalGeneration", paligemma),
    "aya_vision": ("AyaVisionForConditionalGeneration", aya_vision),
}


if not tokenprune.default_registry().find("adapter", "qwen3-omni").specimens()[0].is_installed:
    del CLASSES["qwen2_5_omni"], CLASSES["qwen3_omni"]

# families that need little more than their structure; some are newer than the oldest tested transformers
STRUCTURAL = {name: tiny for name, tiny in STRUCTURES.items() if hasattr(transformers, tiny.model)}


def build(name, attention="sdpa"):
    """A model of a family, its weights large enough that dropping tokens shows."""
    torch.manual_seed(0)
    tiny = STRUCTURAL.get(name)
    class_name, config = CLASSES[name] if tiny is None else (tiny.model, tiny.config)
    model = getattr(transformers, class_name)(config()).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if (
                weight.ndim in (2, 3) and weight.numel() > 1 and weight.std() < 0.1
            ):  # those of experts have three dimensions
                weight.mul_(0.2 / weight.std().clamp(min=1e-3))
    if attention != "sdpa":
        model.set_attn_implementation(attention)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


@functools.cache
def model(name, attention="sdpa"):
    """The same, built once."""
    return build(name, attention)


def inputs(name, *rows, seed=1):
    """Inputs from rows of text lengths and "I"; images of 32 pixels, of 24 tokens for the Qwens.

    LLaVA-OneVision's are two tiles wide. Without rows: left padding, unequal image counts, text only.
    """
    rows = rows or ((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    if name in STRUCTURAL:
        return structural_inputs(STRUCTURAL[name], rows, seed)
    if name.startswith(PACKED):
        made = qwen_inputs(*[tuple(("I", 4, 6) if p == "I" else p for p in row) for row in rows], seed=seed)
        made.pop("second_per_grid_ts", None)
        if name.endswith("omni"):  # it finds images by their tokens
            del made["mm_token_type_ids"]
        return made
    draw = torch.Generator().manual_seed(seed)
    n_images = sum(part == "I" for row in rows for part in row)
    images = {}
    if n_images:
        images["pixel_values"] = torch.randn(n_images, 3, 32, 32, generator=draw)
    if name == "llava_onevision" and n_images:
        images["pixel_values"] = torch.randn(n_images, 3, 3, 32, 32, generator=draw)
        images["image_sizes"] = torch.tensor([[32, 64]] * n_images)
    if name in GEMMA4 and n_images:  # a grid of 8 x 8 patches, pooled by two on each side
        places = torch.cartesian_prod(torch.arange(8), torch.arange(8)).flip(1)
        images["pixel_values"] = torch.rand(n_images, 64, 48, generator=draw)
        images["image_position_ids"] = places.repeat(n_images, 1, 1)
    if name == "mistral3" and n_images:
        images["image_sizes"] = torch.tensor([[32, 32]] * n_images)
    n = tokens_of(name)
    tokens = []
    for row in rows:
        ids = [BOS]
        for part in row:
            is_image = part == "I"
            one = [IMAGE] * n if is_image else torch.randint(2, 89, (part,), generator=draw).tolist()
            ids += [92, *one, 93] if is_image and name in ("gemma3", *GEMMA4) else one
        tokens.append(ids)
    made = {**batch(tokens), **images}
    if name == "gemma3":
        made["token_type_ids"] = (made["input_ids"] == IMAGE).long()
    if name in GEMMA4:
        made["mm_token_type_ids"] = (made["input_ids"] == IMAGE).long()
    if name == "paligemma":  # as its processor says: all of a prompt without answer sees each other
        made["token_type_ids"] = torch.zeros_like(made["input_ids"])
    if name in ("smolvlm", "idefics3") and n_images:  # (rows, most images of a row, ...), zeros where fewer
        most = max(sum(part == "I" for part in row) for row in rows)
        grid, pixels = torch.zeros(len(rows), most, 3, 32, 32), iter(images["pixel_values"])
        for i, row in enumerate(rows):
            for k in range(sum(part == "I" for part in row)):
                grid[i, k] = next(pixels)
        made["pixel_values"] = grid
    return made


def structural_inputs(tiny, rows, seed):
    """The same for a family of `STRUCTURAL`."""
    draw = torch.Generator().manual_seed(seed)
    tokens = []
    for row in rows:
        ids = [BOS]
        for part in row:
            if part == "I":
                ids += [*tiny.frame[:1], *[IMAGE] * tiny.n, *tiny.frame[1:]]
            else:
                ids += torch.randint(2, 79, (part,), generator=draw).tolist()
        tokens.append(ids)
    made = batch(tokens)
    if tiny.kinds:
        made["mm_token_type_ids"] = (made["input_ids"] == IMAGE).int()
    n_images = sum(part == "I" for row in rows for part in row)
    return made | (tiny.pictures.make(n_images, draw) if n_images else {})


@functools.cache
def tokens_of(name):
    """Tokens of an image."""
    if name in STRUCTURAL:
        return STRUCTURAL[name].n
    if name.startswith(PACKED):
        return 24
    if name == "llava_onevision":
        with torch.no_grad():
            pixels, sizes = torch.zeros(1, 3, 3, 32, 32), torch.tensor([[32, 64]])
            return len(model(name).model.get_image_features(pixels, sizes).pooler_output[0])
    return 4 if name in ("smolvlm", "idefics3") else 16


PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def cut_row(name, given, row):
    """One row of a batch alone, without padding and the other rows' images."""
    real = given["attention_mask"][row].bool()
    one = {key: given[key][row : row + 1, real] for key in PER_TOKEN if key in given}
    counts = [int(n) // tokens_of(name) for n in (given["input_ids"] == IMAGE).sum(1)]
    start, stop = sum(counts[:row]), sum(counts[: row + 1])
    if name in ("smolvlm", "idefics3") and start < stop:
        return {**one, "pixel_values": given["pixel_values"][row : row + 1, : counts[row]]}
    return one | cut_images(name, given, start, stop)


def cut_images(name, given, start, stop):
    """Some of the images of a batch, whose arguments have no axis of rows."""
    if start == stop:
        return {}
    if name in STRUCTURAL:
        return STRUCTURAL[name].pictures.cut(given, start, stop)
    if name in ("smolvlm", "idefics3"):  # of one row
        return {"pixel_values": given["pixel_values"][:, start:stop]}
    if name.startswith(PACKED):
        patches = given["image_grid_thw"].prod(1).tolist()
        pixels = given["pixel_values"][sum(patches[:start]) : sum(patches[:stop])]
        return {"pixel_values": pixels, "image_grid_thw": given["image_grid_thw"][start:stop]}
    keys = ("pixel_values", "image_sizes", "image_position_ids")
    return {key: given[key][start:stop] for key in keys if key in given}


def join_images(name, parts):
    """The opposite: arguments of several images from those of each."""
    axis = STRUCTURAL[name].pictures.axis if name in STRUCTURAL else 0
    return {
        key: torch.cat([part[key] for part in parts], axis if key == "pixel_values" else 0)
        for key in parts[0]
    }
