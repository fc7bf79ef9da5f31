# SPDX-License-Identifier: Apache-2.0
"""The fastest that a cut inside a vision tower could be: its blocks called one by one on the rows left.

No token is scored or selected, and no hook is used: tokens at equal distances stand for those that would have
been kept, because in a tower with windows the time depends on where tokens are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from tokenprune_evaluation.tower_costs import PREFIXES, evenly_spaced, groups_in_windows, window_side
from torch import Tensor

import tokenprune
from tokenprune_cli.bench.workload import Workload


def check_tower(config: Any) -> None:
    """Raise IncompatibleError for a model whose tower cannot be run here block by block."""
    family = config.model_type
    if family not in ("llava", "qwen2_vl", "qwen2_5_vl"):
        raise tokenprune.IncompatibleError(
            f"bench has no oracle for cuts inside the vision tower of a {family!r}"
        )
    if family == "llava" and (
        config.vision_config.model_type not in PREFIXES or not isinstance(config.vision_feature_layer, int)
    ):
        raise tokenprune.IncompatibleError(
            "bench has no oracle for cuts inside this vision tower, a "
            f"{config.vision_config.model_type!r} with vision_feature_layer={config.vision_feature_layer}; "
            f"it has one for {' and '.join(PREFIXES)} with a single layer"
        )


def projected_rows(model: Any, workload: Workload, layer: int, keep: int) -> Tensor:
    """Return the rows that enter the language model, (images, keep, D).

    Parameters
    ----------
    layer
        Before which block all but `keep` tokens of each image are dropped.
    """
    if model.config.model_type == "llava":
        return _dense(model, workload, layer, keep)
    return _packed(model, workload, layer, keep)


def _dense(model: Any, workload: Workload, layer: int, keep: int) -> Tensor:
    """Run a CLIP or SigLIP tower, whose images are a batch; a class token stays."""
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    n_prefix = PREFIXES[model.config.vision_config.model_type]
    rows = tower.embeddings(workload.inputs["pixel_values"])
    if n_prefix:
        rows = tower.pre_layrnorm(rows)
    states = [rows]
    for number, block in enumerate(tower.encoder.layers):
        if number == layer:
            kept = evenly_spaced(rows.shape[1] - n_prefix, keep)
            left = torch.tensor([*range(n_prefix), *(n_prefix + i for i in kept)], device=rows.device)
            rows = rows[:, left]
        rows = block(rows, None)
        states.append(rows)
    # like the stock tower, this one runs the blocks after the layer that is projected
    selected = states[model.config.vision_feature_layer][:, n_prefix:]
    projected: Tensor = model.model.multi_modal_projector(selected)
    return projected


def _packed(model: Any, workload: Workload, layer: int, keep: int) -> Tensor:
    """Run a Qwen tower, whose images are one sequence, in the order of windows."""
    tower, images = model.model.visual, workload.batch
    per_token = tower.spatial_merge_size**2
    rows = tower.patch_embed(workload.inputs["pixel_values"])
    groups = groups_in_windows(*workload.picture, window_side(tower.config))
    windows = [window for window, _ in groups]
    numbers = torch.tensor([number for _, number in groups], device=rows.device)
    rows = _of_tokens(rows, numbers, images, per_token)
    angles = _angles(tower, numbers, workload.picture[1]).repeat(images, 1)
    rotations = [angles.cos(), angles.sin()]
    full = getattr(tower, "fullatt_block_indexes", range(len(tower.blocks)))
    for i, block in enumerate(tower.blocks):
        if i == layer:
            kept = evenly_spaced(len(windows), keep)
            windows = [windows[place] for place in kept]
            places = torch.tensor(kept, device=rows.device)
            rows = _of_tokens(rows, places, images, per_token)
            rotations = [_of_tokens(table, places, images, per_token) for table in rotations]
        tokens = [len(windows)] if i in full else list(Counter(windows).values())
        lengths = per_token * torch.tensor(tokens * images, device=rows.device)
        borders = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        rows = block(rows, cu_seqlens=borders, position_embeddings=tuple(rotations))
    merged: Tensor = tower.merger(rows)
    return merged.view(images, -1, merged.shape[-1])


def _of_tokens(rows: Tensor, tokens: Tensor, images: int, per_token: int) -> Tensor:
    """Return the rows of some tokens of each image, (rows, D); those of a token follow each other."""
    by_token = rows.view(images, -1, per_token * rows.shape[-1])
    return by_token[:, tokens].reshape(-1, rows.shape[-1])


def _angles(tower: Any, numbers: Tensor, width: int) -> Tensor:
    """Return the angles (rows, head width) of rotary positions, from the tokens' numbers in an image."""
    merge, frequencies = tower.spatial_merge_size, tower.rotary_pos_emb.inv_freq.to(numbers.device)
    within = torch.arange(merge, device=numbers.device)
    lines = (numbers // width * merge)[:, None, None] + within[:, None]
    columns = (numbers % width * merge)[:, None, None] + within
    places = [axis.expand(-1, merge, merge).reshape(-1, 1) for axis in (lines, columns)]
    return torch.cat([axis * frequencies for axis in places], 1).repeat(1, 2)
