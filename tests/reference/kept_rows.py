# SPDX-License-Identifier: Apache-2.0
"""Stock code fed the rows that stay from the start, and then tokens, without a cache: no hook of ours."""

import torch
from tiny_models import IMAGE, VIDEO


def kept_slots(ids, images):
    """Slots of a row (L,) that stay: all text, and what each image or video of its report keeps.

    Each is one run of its placeholder; a report has all images, then all videos, each in order.
    """
    keep = (ids != IMAGE) & (ids != VIDEO)
    slots = torch.cat([(ids == token).nonzero().squeeze(1) for token in (IMAGE, VIDEO)])
    for image, run in zip(images, slots.split([len(image.layout) for image in images]), strict=True):
        keep[run if image.kept is None else run[image.kept]] = True
    return keep


def entered(model, inputs):
    """What the language model is handed in a stock run."""
    seen = {}
    language = getattr(model.model, "text_model", None) or model.model.language_model
    hook = language.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    try:
        model(**inputs)
    finally:
        hook.remove()
    return seen


def stock_logits(model, inputs, keep, tokens):
    """Logits (P + T, V) of a row's P kept rows and T tokens; positions closed up, but not on three axes."""
    seen = entered(model, inputs)
    table = model.get_input_embeddings()
    rows = torch.cat([seen["inputs_embeds"][:, keep], table(tokens[None])], 1)
    n, places = rows.shape[1], seen.get("position_ids")
    if places is None or places.ndim == 2:
        kinds = {}
        if seen.get("per_layer_inputs") is not None:  # Gemma 4
            more = model.model.language_model.get_per_layer_inputs(tokens[None], None)
            kinds["per_layer_inputs"] = torch.cat([seen["per_layer_inputs"][:, keep], more], 1)
        if "mm_token_type_ids" in inputs:
            answer = torch.zeros(1, len(tokens), dtype=inputs["mm_token_type_ids"].dtype)
            kinds["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"][:, keep], answer], 1)
        if "token_type_ids" in inputs:  # an answer sees only what came before
            answer = torch.full((1, len(tokens)), 1 if model.config.model_type == "paligemma" else 0)
            kinds["token_type_ids"] = torch.cat([inputs["token_type_ids"][:, keep], answer], 1)
        return model(inputs_embeds=rows, attention_mask=torch.ones(1, n).long(), **kinds).logits[0]
    places = places[-3:]
    later = places.max() + 1 + torch.arange(len(tokens)).expand(3, 1, -1)
    places = torch.cat([torch.arange(n).expand(1, 1, -1), torch.cat([places[..., keep], later], 2)])
    more = {}
    if seen.get("visual_pos_masks") is not None:
        is_image = inputs["input_ids"][0] == IMAGE
        more["visual_pos_masks"] = torch.cat([is_image[keep], torch.zeros(len(tokens)).bool()])[None]
        more["deepstack_visual_embeds"] = [each[keep[is_image]] for each in seen["deepstack_visual_embeds"]]
    out = model.model.language_model(inputs_embeds=rows, position_ids=places, **more)
    return model.lm_head(out.last_hidden_state)[0]
