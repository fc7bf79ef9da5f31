# SPDX-License-Identifier: Apache-2.0
"""A pruned LLaVA by hand: no hooks, no cache, a row at a time, the language model called on what stays."""

import torch
from tiny_models import EOS, IMAGE

import tokenprune


def kept_slots(model, method, pixel_values, keep):
    """Slots each image keeps, from signals computed by hand."""
    hidden = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    projector = model.model.multi_modal_projector
    kept = []
    for rows in hidden:
        signals = {"pre_features": rows, "projector": projector}
        kept.append(method.select(tokenprune.VisualTokens(projector(rows), signals), keep).indices)
    return kept


def rows_of(model, inputs, method, keep, positions):
    """Each row: kept embeddings (1, P, D), their positions (1, P), the position the next token gets."""
    embeds = model.get_input_embeddings()(inputs["input_ids"]).clone()
    kept = []
    if "pixel_values" in inputs:
        pixels = inputs["pixel_values"]
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        embeds[inputs["input_ids"] == IMAGE] = model.model.multi_modal_projector(hidden).flatten(0, 1)
        kept = kept_slots(model, method, pixels, keep)
    rows, image = [], 0
    for i, ids in enumerate(inputs["input_ids"]):
        real = inputs["attention_mask"][i].bool()
        ids, row = ids[real], embeds[i][real]
        keeps = ids != IMAGE
        visual = (ids == IMAGE).nonzero().squeeze(1)
        for slots in visual.split(16) if len(visual) else ():
            keeps[slots[kept[image]]] = True
            image += 1
        original = torch.arange(len(ids))[keeps]
        contiguous = torch.arange(int(keeps.sum()))
        place = original if positions == "original" else contiguous
        after = len(ids) if positions == "original" else len(contiguous)
        rows.append((row[keeps][None], place[None], after))
    return rows


def logits(model, embeds, positions):
    """Logits (P, V) of one row."""
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    output = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False
    )
    return model.lm_head(output.last_hidden_state)[0]


def generate(model, embeds, positions, after, n_new):
    """Greedy decoding without a cache: tokens, and the logits each was chosen from (n, V)."""
    tokens, seen = [], []
    for step in range(n_new):
        seen.append(logits(model, embeds, positions)[-1])
        tokens.append(int(seen[-1].argmax()))
        if tokens[-1] == EOS:
            break
        new = model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))
        embeds = torch.cat([embeds, new], 1)
        positions = torch.cat([positions, torch.tensor([[after + step]])], 1)
    return tokens, torch.stack(seen)
