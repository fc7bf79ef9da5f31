# SPDX-License-Identifier: Apache-2.0
"""What a vision tower spends on an image, by exact formulas, also if tokens are cut inside it.

Operations are the multiplications and additions in the matrix products of the patch embedding, of the blocks
and of the projector (or merger), with attention over the full square of each segment's rows, as fused kernels
are counted (`torch.utils.flop_counter` gives the same). Norms, activations and rotary embeddings are left
out, and so is the selection of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune.schedule import entering

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
PREFIXES = {"clip_vision_model": 1, "siglip_vision_model": 0}  # rows that are no patches, by kind of tower


def tower_flops(
    config: Any, picture: tuple[int, int], cuts: Mapping[int, int] | None = None, tiles: int = 1
) -> int:
    """Return the FLOPs of an image from pixels to the rows that enter the language model.

    Parameters
    ----------
    config
        The configuration of a LLaVA, LLaVA-NeXT, Qwen2-VL or Qwen2.5-VL model (`model.config`).
    picture
        Height and width of the image, or of each tile, in visual tokens.
    cuts
        Blocks of the tower, and the tokens of the image that are left from each on. The tokens of a packed
        tower are taken to be spread evenly over its windows.
    tiles
        Number of tiles that the tower sees of the image.

    Raises
    ------
    ValueError
        If the formulas do not hold for the model's family, or for its tower.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise ValueError(f"formulas of towers hold for {', '.join(FAMILIES)}; this model is a {family!r}")
    if family.startswith("qwen"):
        return _packed(config, picture, cuts or {})
    kind = config.vision_config.model_type
    if kind not in PREFIXES:
        raise ValueError(f"formulas of LLaVA's towers hold for {', '.join(PREFIXES)}; this one is a {kind!r}")
    of_tile = {block: tokens // tiles for block, tokens in (cuts or {}).items()}
    return tiles * _dense(config, picture[0] * picture[1], of_tile)


def groups_in_windows(height: int, width: int, side: int | None) -> list[tuple[int, int]]:
    """Return the window and the number of each token of an image, in the order of a Qwen tower.

    Parameters
    ----------
    height, width
        Size of the image in tokens.
    side
        Side of a window in tokens; None for towers without windows, where all tokens are in one.
    """
    if side is None:
        return [(0, number) for number in range(height * width)]
    in_line = -(-width // side)
    window = {
        number: number // width // side * in_line + number % width // side for number in range(height * width)
    }
    return sorted((window[number], number) for number in window)


def window_side(vision: Any) -> int | None:
    """Return the side of a Qwen tower's windows in tokens, or None if its configuration has no windows."""
    if not hasattr(vision, "window_size"):
        return None
    return int(vision.window_size // vision.patch_size // vision.spatial_merge_size)


def evenly_spaced(n: int, keep: int) -> list[int]:
    """Return `keep` of the numbers below n, with equal distances up to rounding."""
    return [i * n // keep for i in range(keep)]


def _dense(config: Any, patches: int, cuts: Mapping[int, int]) -> int:
    """The FLOPs of a CLIP or SigLIP tower, and of LLaVA's projector, for one tile."""
    vision, out = config.vision_config, config.text_config.hidden_size
    d, n_prefix = vision.hidden_size, PREFIXES[config.vision_config.model_type]
    left = entering(cuts, patches, vision.num_hidden_layers)
    weights = 4 * d * d + 2 * d * vision.intermediate_size
    layers = config.vision_feature_layer
    features = d * (1 if isinstance(layers, int) else len(layers))
    embedding = 2 * patches * vision.num_channels * vision.patch_size**2 * d
    blocks = sum(_block(n_prefix + n, weights, [n_prefix + n], d) for n in left)
    return int(embedding + blocks + 2 * left[-1] * (features * out + out * out))


def _packed(config: Any, picture: tuple[int, int], cuts: Mapping[int, int]) -> int:
    """The FLOPs of a Qwen tower and its merger for one image."""
    vision, merged = config.vision_config, config.vision_config.spatial_merge_size**2
    is_gated = config.model_type == "qwen2_5_vl"
    d = vision.hidden_size if is_gated else vision.embed_dim
    out = vision.out_hidden_size if is_gated else vision.hidden_size
    mlp = 3 * d * vision.intermediate_size if is_gated else 2 * d * int(d * vision.mlp_ratio)
    windows = [window for window, _ in groups_in_windows(*picture, window_side(vision))]
    full = set(getattr(vision, "fullatt_block_indexes", range(vision.depth)))
    tokens = len(windows)
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    total = 2 * tokens * merged * values * d
    left = entering(cuts, tokens, vision.depth)
    for block, n in enumerate(left):
        kept = Counter(windows[i] for i in evenly_spaced(tokens, n))
        segments = [n] if block in full else list(kept.values())
        total += _block(merged * n, 4 * d * d + mlp, [merged * rows for rows in segments], d)
    return int(total + 2 * left[-1] * ((merged * d) ** 2 + merged * d * out))


def _block(rows: int, weights: int, segments: Sequence[int], width: int) -> int:
    """The FLOPs of a block: a product of each row with the weights, and attention within the segments."""
    return 2 * rows * weights + 4 * width * sum(n * n for n in segments)
