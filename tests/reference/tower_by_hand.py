# SPDX-License-Identifier: Apache-2.0
"""Vision towers run block by block on the tokens that stay, a picture at a time, without any hook."""

import torch


def timm_rows(model, picture, layer, kept):
    """What the last block leaves (1, prefix + K, D), with the rows of `kept` (K,) only from `layer` on."""
    embedded = model._pos_embed(model.patch_embed(picture))
    rows, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
    rows = model.norm_pre(rows)
    n = model.num_prefix_tokens
    for i, block in enumerate(model.blocks):
        own = rope[i] if getattr(model, "rope_mixed", False) else rope
        if i == layer:
            rows = torch.cat([rows[:, :n], rows[:, n + kept]], 1)
        if i >= layer and own is not None:
            own = own[..., kept, :]
        rows = block(rows) if rope is None else block(rows, rope=own)
    return rows


def timm_model(model, picture, layer, kept):
    """The model's output for one picture (1, 3, H, W)."""
    return model.forward_head(model.norm(timm_rows(model, picture, layer, kept)))


def open_clip_tower(visual, picture, layer, kept):
    """An open_clip image tower's output for one picture."""
    if hasattr(visual, "trunk"):
        return visual.head(timm_model(visual.trunk, picture, layer, kept))
    rows = visual._embeds(picture)
    for i, block in enumerate(visual.transformer.resblocks):
        if i == layer:
            rows = torch.cat([rows[:, :1], rows[:, 1 + kept]], 1)
        rows = block(rows)
    return visual._pool(rows)[0] @ visual.proj
