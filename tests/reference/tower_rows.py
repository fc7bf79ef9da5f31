# SPDX-License-Identifier: Apache-2.0
"""Vision towers that drop tokens before a block: blocks called by hand, or attention under a mask."""

import torch


def dense(model, pixels, cuts):
    """Projected rows (B, K, D) of a CLIP or SigLIP tower.

    `cuts` maps blocks to the patches (B, K) that are left from there on, of all patches.
    """
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    rows = tower.embeddings(pixels)
    if hasattr(tower, "pre_layrnorm"):
        rows = tower.pre_layrnorm(rows)
    n_prefix = int(hasattr(tower.embeddings, "class_embedding"))
    left, states = torch.arange(rows.shape[1] - n_prefix).expand(len(rows), -1), [(rows, None)]
    for number, block in enumerate(tower.encoder.layers):
        if number in cuts:
            patches = [
                [left[image].tolist().index(patch) for patch in kept]
                for image, kept in enumerate(cuts[number].tolist())
            ]
            rows = torch.stack(
                [
                    torch.cat([row[:n_prefix], row[n_prefix:][kept]])
                    for row, kept in zip(rows, patches, strict=True)
                ]
            )
            left = cuts[number]
        rows = block(rows, None)
        states.append((rows, left))
    layers = model.config.vision_feature_layer
    chosen = []
    for layer in layers if isinstance(layers, list) else [layers]:
        rows, of = states[layer]
        patches = []
        for image, row in enumerate(rows):
            numbers = list(range(row.shape[0] - n_prefix)) if of is None else of[image].tolist()
            patches.append(row[n_prefix:][[numbers.index(patch) for patch in left[image].tolist()]])
        chosen.append(torch.stack(patches))
    return model.model.multi_modal_projector(torch.cat(chosen, -1))


def packed(model, pixels, grids, cuts):
    """Merged rows of all tokens left, and those of each DeepStack merger, of Qwen's towers.

    Rows stay in the order of tokens, without windows: attention is dense under a mask that allows keys in the
    same window or frame by their coordinates. Dropped rows are overwritten. `cuts` maps blocks to a mask
    (tokens,) of what is left from there on.
    """
    tower = getattr(model, "visual", None) or model.model.visual
    merge = tower.spatial_merge_size
    entering = {}
    hook = tower.blocks[0].register_forward_pre_hook(
        lambda m, a, k: entering.update(rows=a[0]), with_kwargs=True
    )
    tower(pixels, grid_thw=grids)
    hook.remove()
    places = [(*at, number) for number, grid in enumerate(grids.tolist()) for at in _places(grid, merge)]
    window = _window(tower, merge)
    rows = _in_token_order(entering["rows"], places, merge, window)
    row, column = (torch.tensor([place[axis] for place in places]) for axis in (1, 2))
    frames = [(place[3], place[0]) for place in places]
    windows = (
        [
            (*frame, place[1] // window, place[2] // window)
            for frame, place in zip(frames, places, strict=True)
        ]
        if window
        else []
    )
    full = getattr(tower, "fullatt_block_indexes", None) if window else None
    kept, taps = torch.ones(len(places), dtype=torch.bool), []
    for number, block in enumerate(tower.blocks):
        if number in cuts:
            kept = cuts[number].repeat_interleave(merge**2)
        rows = torch.where(kept[:, None], rows, torch.full_like(rows, 7.0))
        group = frames if full is None or number in full else windows
        allowed = torch.tensor([[a == b for b in group] for a in group]) & kept[None]
        allowed |= torch.eye(len(group), dtype=torch.bool)
        rows = _block(block, rows, row, column, allowed)
        if number in getattr(tower, "deepstack_visual_indexes", ()):
            merger = tower.deepstack_merger_list[list(tower.deepstack_visual_indexes).index(number)]
            taps.append((merger(rows), kept.view(-1, merge**2)[:, 0]))
    if hasattr(tower, "downsample"):  # GLM-4V
        rows = tower.post_layernorm(rows).view(-1, merge, merge, rows.shape[-1]).permute(0, 3, 1, 2)
        rows = tower.downsample(rows).flatten(1)
    return tower.merger(rows), taps


def _places(grid, merge):
    """Frame, row and column of each patch of an image, token by token."""
    frames, height, width = grid
    return [
        (t, i * merge + di, j * merge + dj)
        for t in range(frames)
        for i in range(height // merge)
        for j in range(width // merge)
        for di in range(merge)
        for dj in range(merge)
    ]


def _window(tower, merge):
    """Side of a window in patches; None without windows."""
    size = getattr(tower, "window_size", None)
    return None if size is None else size // merge // tower.patch_size * merge


def _in_token_order(rows, places, merge, window):
    """Rows that a tower has in the order of windows, image by image and frame by frame."""
    if window is None:
        return rows
    order = sorted(
        range(0, len(places), merge**2),
        key=lambda p: (places[p][3], places[p][0], places[p][1] // window, places[p][2] // window, p),
    )
    patches = torch.tensor([p + i for p in order for i in range(merge**2)])
    out = torch.empty_like(rows)
    out[patches] = rows
    return out


def _block(block, rows, row, column, allowed):
    """One block, its attention written out."""
    attention, n = block.attn, len(rows)
    normed = block.norm1(rows)
    if hasattr(attention, "qkv"):
        projected = attention.qkv(normed)
    else:  # Qwen2.5-Omni
        projected = torch.cat([attention.q(normed), attention.k(normed), attention.v(normed)], 1)
    query, key, value = projected.view(n, 3, attention.num_heads, -1).unbind(1)
    width = query.shape[-1]
    frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2) / (width // 2))
    angles = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], 1).repeat(1, 2)[:, None]

    def rotated(x):
        half = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], -1)
        return x * angles.cos() + half * angles.sin()

    scores = torch.einsum("qhd,khd->hqk", rotated(query), rotated(key)) * width**-0.5
    mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)
    rows = rows + attention.proj(mixed.flatten(1))
    return rows + block.mlp(block.norm2(rows))
