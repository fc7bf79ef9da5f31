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
    hook = language_of(model).register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    try:
        model(**inputs)
    finally:
        hook.remove()
    return seen


def stock_logits(model, inputs, keep, tokens, **other):
    """Logits (P + T, V) of a row's P kept rows and T tokens; positions closed up, but not on three axes.

    `other` are arguments of the language model, for all tokens, in place of those that stock code makes.
    """
    seen = entered(model, inputs) | other
    answer = entered(model, {"input_ids": tokens[None]}) if len(tokens) else {}
    rows = joined(seen, answer, "inputs_embeds", keep)
    n, places = rows.shape[1], seen.get("position_ids")
    has_axes = places is not None and places.ndim == 3
    more = {}
    if seen.get("visual_pos_masks") is not None:
        is_image = seen["visual_pos_masks"][0]
        more["visual_pos_masks"] = torch.cat([is_image[keep], torch.zeros(len(tokens)).bool()])[None]
        more["deepstack_visual_embeds"] = [each[keep[is_image]] for each in seen["deepstack_visual_embeds"]]
    if has_axes or more:
        places = closed_places(places, keep, len(tokens)) if has_axes else torch.arange(n)[None]
        out = language_of(model)(inputs_embeds=rows, position_ids=places, **more)
        return model.lm_head(out.last_hidden_state)[0] / scale_of(model)
    if seen.get("per_layer_inputs") is not None:  # Gemma 3n and 4
        more["per_layer_inputs"] = joined(seen, answer, "per_layer_inputs", keep)
    if "mm_token_type_ids" in inputs:
        kinds = torch.zeros(1, len(tokens), dtype=inputs["mm_token_type_ids"].dtype)
        more["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"][:, keep], kinds], 1)
    if "token_type_ids" in inputs:  # an answer sees only what came before
        kinds = torch.full((1, len(tokens)), 1 if model.config.model_type == "paligemma" else 0)
        more["token_type_ids"] = torch.cat([inputs["token_type_ids"][:, keep], kinds], 1)
    return model(inputs_embeds=rows, attention_mask=torch.ones(1, n).long(), **more).logits[0]


def joined(seen, answer, name, keep):
    """An argument of the language model for the kept rows, and for those of the answer."""
    rows = seen[name][:, keep]
    return torch.cat([rows, answer[name]], 1) if answer else rows


def closed_places(places, keep, n_later):
    """Kept positions (4, 1, P + T) of three axes, those of T later tokens, and a first row that counts."""
    later = places[-3:].max() + 1 + torch.arange(n_later).expand(3, 1, -1)
    axes = torch.cat([places[-3:][..., keep], later], 2)
    return torch.cat([torch.arange(axes.shape[2]).expand(1, 1, -1), axes])


def language_of(model):
    if not hasattr(model, "model"):  # Llama 4
        return model.language_model.model
    return getattr(model.model, "text_model", None) or model.model.language_model


def scale_of(model):
    """What Granite divides its logits by."""
    return getattr(model.config.get_text_config(), "logits_scaling", 1)
