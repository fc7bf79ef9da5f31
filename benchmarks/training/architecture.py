# SPDX-License-Identifier: Apache-2.0
"""Architecture and initial weights of the embedded model, a LLaVA of stock transformers modules."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.scenes.patch_labels import GRID_SIDE, N_PATCHES
from benchmarks.scenes.scene import IMAGE_SIDE, PATCH_SIDE
from benchmarks.scenes.vocabulary import BOS, EOS, IMAGE, PAD, VOCABULARY, WORD_ID

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # of colour values between 0 and 1
_N_LUMINANCE = 64  # patch filters for brightness; the others are for the two colour differences
ROPE_THETA = 1e6  # slow rotations: most of a head compares content at any distance
LAYER_STRIDE = 3  # every third language layer is trained first; the others start as identities
_LOOKUP_GAIN = 1.2
_RESIDUAL_OUTPUTS = ("out_proj", "fc2", "o_proj", "down_proj")


def model_config() -> LlavaConfig:
    """Return the model's configuration: 144 visual tokens, a 5-layer tower, 12 thin language layers."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=IMAGE_SIDE,
        patch_size=PATCH_SIDE,
        hidden_act="gelu",
        projection_dim=128,
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=WORD_ID[PAD],
        bos_token_id=WORD_ID[BOS],
        eos_token_id=WORD_ID[EOS],
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=WORD_ID[IMAGE],
        image_seq_length=N_PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def _grid_positions(width: int) -> torch.Tensor:
    """Return sines and cosines of row and column, (N, width); neighbours are similar from the start."""
    n = width // 4
    frequency = (1.0 / 40 ** (np.arange(n) / (n - 1))) * (math.pi / 2)
    phase = np.arange(GRID_SIDE)[:, None] * frequency
    axis = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    table = np.concatenate([np.repeat(axis, GRID_SIDE, 0), np.tile(axis, (GRID_SIDE, 1))], 1)
    return torch.tensor(table, dtype=torch.float32)


def _cosine_filters(n_filters: int) -> torch.Tensor:
    """Return discrete cosine patch filters, (n_filters, 3, P, P): brightness first, then coarse colours."""
    k = np.arange(PATCH_SIDE)
    basis = np.cos(np.pi * (k[None] + 0.5) * k[:, None] / PATCH_SIDE) * np.sqrt(2 / PATCH_SIDE)
    basis[0] /= np.sqrt(2)
    coarse_first = sorted(((i, j) for i in k for j in k), key=lambda ij: (sum(ij), ij[0]))
    n_brightness = min(_N_LUMINANCE, n_filters // 2)
    n_red_green = (n_filters - n_brightness) // 2
    axes = (
        (np.array([1, 1, 1]) / math.sqrt(3), n_brightness),
        (np.array([1, -1, 0]) / math.sqrt(2), n_red_green),
        (np.array([1, 1, -2]) / math.sqrt(6), n_filters - n_brightness - n_red_green),
    )
    filters = [
        axis[:, None, None]
        * np.outer(basis[i], basis[j])
        * (0.25 if i + j == 0 else 0.6)  # the mean varies most
        for axis, n in axes
        for i, j in coarse_first[:n]
    ]
    return torch.tensor(np.stack(filters), dtype=torch.float32)


@torch.no_grad()
def _initialise(model: LlavaForConditionalGeneration, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tower: Any = model.model.vision_tower
    language: Any = model.model.language_model
    for part, n_layers in ((tower, 5), (model.model.multi_modal_projector, 1), (language, 12)):
        for name, weight in part.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                is_output = any(word in name for word in _RESIDUAL_OUTPUTS)
                gain = 1 / math.sqrt(2 * n_layers) if is_output else 0.8
                nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]), generator=generator)
            elif name.endswith("bias"):
                weight.zero_()
    embeddings = tower_parts(tower).embeddings
    embeddings.patch_embedding.weight.copy_(_cosine_filters(len(embeddings.patch_embedding.weight)))
    embeddings.position_embedding.weight[0] = 0
    embeddings.position_embedding.weight[1:] = _grid_positions(embeddings.position_embedding.weight.shape[1])
    embeddings.class_embedding.normal_(std=0.5, generator=generator)
    language.embed_tokens.weight.normal_(std=0.5, generator=generator)
    model.lm_head.weight.normal_(std=0.02, generator=generator)
    for number, layer in enumerate(language.layers):
        _make_lookup_heads(layer.self_attn, generator)
        if number % LAYER_STRIDE:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()


def _make_lookup_heads(attention: Any, generator: torch.Generator) -> None:
    """Initialise half of the heads to look up a word among the visual tokens.

    In such a head, the query of a word equals the key of that word in the visual dialect. Learning this match
    by training alone would take most of the images that a two-core machine has time for.
    """
    key, query = attention.k_proj.weight, attention.q_proj.weight
    n_rows, width = key.shape[0] // 2, key.shape[1]
    key[:n_rows].normal_(std=_LOOKUP_GAIN / math.sqrt(width), generator=generator)
    query[:n_rows] = key[:n_rows] @ visual_dialect(width)


@cache
def visual_dialect(width: int) -> torch.Tensor:
    """Return the rotation, (width, width), from a word's embedding to its representation in visual tokens.

    Visual tokens use a representation of their own (the visual dialect), so that a word attends to the
    matching visual tokens and not to itself.
    """
    generator = torch.Generator().manual_seed(1)
    rotation: torch.Tensor = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return rotation


def tower_parts(tower: Any) -> Any:
    """Return the module with the tower's embeddings and layers (nested once more in older transformers)."""
    return getattr(tower, "vision_model", tower)


def new_model(seed: int) -> LlavaForConditionalGeneration:
    """Create an untrained embedded model, whose weights depend only on the seed."""
    model = LlavaForConditionalGeneration(model_config())
    _initialise(model, seed)
    return model


def pixel_values(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 images (B, S, S, 3) to the tower's input (B, 3, S, S)."""
    values = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
    return ((values - PIXEL_MEAN) / PIXEL_STD).contiguous()


def visual_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """Return patch features before the projector, (B, N, D), from the frozen tower's second-to-last layer."""
    with torch.no_grad():
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    features: torch.Tensor = hidden[model.config.vision_feature_layer][:, 1:]
    return features
