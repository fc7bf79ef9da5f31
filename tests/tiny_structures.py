# SPDX-License-Identifier: Apache-2.0
"""Tiny models of families that are supported by their structure: the specimens' sizes, and their pictures."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from packaging.version import Version
from tiny_models import DECODER, IMAGE
from tokenprune_adapters.generic import GenericAdapter
from tokenprune_adapters.tiny import FOLDER
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

VERSION = Version(transformers_version)
TEXT = {name: value for name, value in DECODER.items() if name != "initializer_range"}


@dataclass(frozen=True)
class Pictures:
    """How a family takes pictures: makes those of k images, and takes some of them out of a batch.

    `axis` is the axis of `pixel_values` along which images follow each other.
    """

    make: Callable
    cut: Callable
    axis: int = 0


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


def patches(n, width):
    """Patches of all images one after the other, n for each."""
    return Pictures(
        lambda k, draw: {"pixel_values": torch.randn(k * n, width, generator=draw)},
        lambda inputs, start, stop: {"pixel_values": inputs["pixel_values"][start * n : stop * n]},
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

    return Pictures(make, cut, axis=3)


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


def two_views(side, local):
    """A whole view and one local view of each image."""
    return stacked(
        pixel_values=(3, side, side),
        pixel_values_local=(3, local, local),
        num_local_patches=torch.tensor([1]),
    )


@dataclass(frozen=True)
class Tiny:
    """A family: its class, configuration, pictures, tokens of an image, and tokens around an image."""

    model: str
    config: Callable
    pictures: Pictures
    n: int = 16
    frame: tuple[int, ...] = ()
    kinds: bool = False  # whether tokens are marked as an image's, for positions of three axes


def settings_of(name):
    """The configuration of a specimen, as a dictionary."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def config_of(settings):
    """A configuration from a dictionary with its model type."""
    plain = dict(settings)
    return transformers.AutoConfig.for_model(plain.pop("model_type"), **plain)


def specimen(name, pictures, **more):
    """The family of a specimen; its class has no name in a transformers that is too old for it."""
    class_name = CLASSES[settings_of(name)["model_type"]] if INSTALLED[name] else ""
    return Tiny(class_name, lambda: config_of(settings_of(name)), pictures, **more)


def fuyu():
    return transformers.FuyuConfig(
        text_config={**TEXT, "model_type": "persimmon"}, image_size=32, patch_size=8, image_token_id=IMAGE
    )


def llama4(**more):
    """Chunks shorter than a prompt, and a layer that numbers its rows itself."""
    text = {
        **TEXT,
        "head_dim": 16,
        "intermediate_size_mlp": 96,
        "num_local_experts": 4,
        "moe_layers": [1, 3],
        "attention_chunk_size": 12,
        "no_rope_layers": [1, 1, 1, 0],
        "floor_scale": 4,
        **more,
    }
    tower = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "vision_output_dim": 48,
        "projector_input_dim": 48,
        "projector_output_dim": 48,
        "pixel_shuffle_ratio": 0.5,
    }
    return transformers.Llama4Config(
        text_config=text,
        vision_config=tower,
        image_token_index=IMAGE,
        boi_token_index=92,
        eoi_token_index=93,
    )


# stock transformers 5.24 raises in every call of it: the output of its language model has no `image_outputs`
LLAMA4 = "Llama4ForConditionalGeneration" if VERSION < Version("5.24") else ""
INSTALLED = {one.name: one.is_installed for one in GenericAdapter.specimens()}
# before transformers 5.23 its inner model takes patches of another name
FUYU = "pixel_values" in inspect.signature(transformers.FuyuForCausalLM.forward).parameters
MARKED = {"frame": (92, 93), "kinds": True}
PLACES = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1)[None]
LFM_PICTURES = stacked(
    pixel_values=(64, 48),
    spatial_shapes=torch.tensor([[8, 8]]),
    pixel_attention_mask=torch.ones(1, 64, dtype=torch.long),
)
TILES = stacked(pixel_values=(1, 3, 32, 32), pixel_attention_mask=torch.ones(1, 1, dtype=torch.bool))
STRUCTURES = {
    "cohere2_vision": specimen("cohere2-vision", square()),
    "exaone4_5": specimen("exaone-4.5", packed(64, 96)),
    "kimi_k25": specimen("kimi-k2.5", packed(64, 3, 4, 4)),
    "lfm2_vl": specimen("lfm2-vl", LFM_PICTURES),
    "paddleocr_vl": specimen("paddleocr-vl", packed(64, 3, 4, 4), **MARKED),
    "got_ocr2": specimen("got-ocr2", square(64)),
    "ovis2": specimen("ovis2", square()),
    "deepseek_vl": specimen("deepseek-vl", square()),
    "janus": specimen("janus", square()),
    "video_llama_3": specimen("video-llama3", packed(64, 48, more={"image_merge_sizes": torch.tensor([2])})),
    "vipllava": specimen("vip-llava", square()),
    "llava_next_video": specimen(
        "llava-next-video",
        stacked(pixel_values=(3, 3, 32, 32), image_sizes=torch.tensor([[32, 64]])),
        n=16 + 4 * 9,
    ),
    "aria": specimen("aria", square(), n=8),
    "lighton_ocr": specimen("lighton-ocr", sized()),
    "minicpmv4_6": specimen("minicpm-v-4.6", side_by_side(1024)),
    "cosmos3_edge": specimen("cosmos3-edge", packed(64, 48), **MARKED),
    "cosmos3_omni": specimen("cosmos3-omni", packed(64, 96), **MARKED),
    "deepseek_vl_hybrid": specimen(
        "deepseek-vl-hybrid", stacked(pixel_values=(3, 32, 32), high_res_pixel_values=(3, 64, 64))
    ),
    "ernie4_5_vl_moe": specimen("ernie-4.5-vl", packed(64, 48), **MARKED),
    "fast_vlm": specimen("fast-vlm", square(128)),
    "llama4": Tiny(LLAMA4, llama4, square(), frame=(92, 93)),
    "llama4_plain": Tiny(LLAMA4, lambda: llama4(attn_temperature_tuning=False), square(), frame=(92, 93)),
    "fuyu": Tiny("FuyuForCausalLM" if FUYU else "", fuyu, patches(16, 192)),
    "glm_ocr": specimen("glm-ocr", packed(64, 96), **MARKED),
    "granite_docling": specimen("granite-docling", TILES),
    "hyperclovax_vision_v2": specimen("hyperclovax-vision-v2", packed(64, 96)),
    "idefics2": specimen("idefics2", stacked(pixel_values=(1, 3, 32, 32)), n=8),
    "lfm3_vl": specimen("lfm3-vl", packed(64, 96)),
    "gemma4_unified": specimen(
        "gemma-4-unified", stacked(pixel_values=(16, 192), image_position_ids=PLACES), **MARKED
    ),
    "gemma3n": specimen("gemma-3n", square(128), frame=(85, 92)),
    "perception_lm": specimen("perception-lm", stacked(pixel_values=(1, 3, 64, 64))),
    "minicpm_ocr": specimen("minicpm-ocr", side_by_side(1024), n=64),
    "minicpmv4_7": specimen("minicpm-v-4.7", side_by_side(1024), **MARKED),
    "minimax_m3_full": specimen("minimax-m3", packed(64, 96)),
    "molmo2": specimen("molmo2", pooled(), **MARKED),
    "muse_glimmer": specimen("muse-glimmer", packed(64, 96)),
    "muse_spark": specimen("muse-spark", packed(64, 96)),
    "qianfan_ocr": specimen("qianfan-ocr", square()),
    "step3p7": specimen("step-3.7", square()),
    "step3p7_views": specimen("step-3.7", two_views(32, 16), n=20),
    "video_llava": specimen("video-llava", square()),
    "apertus1p5": specimen("apertus-1.5", sized()),
    "emu3": specimen("emu3", sized(), n=20),
    "cohere_compass": specimen("cohere-compass", packed(64, 96), **MARKED),
    "deepseek_ocr2": specimen("deepseek-ocr2", square(64), n=145),
    "deepseek_ocr2_views": specimen("deepseek-ocr2", two_views(64, 48), n=289),
}
