# SPDX-License-Identifier: Apache-2.0
"""Promise 2 on the families beyond the main three."""

import pytest
import tiny_families as families
import torch
from family_cases import KEEP, OPTIONS, STATES, TOLERANCE, WHOLE, WITHOUT_REFERENCE, generated
from reference.kept_rows import kept_slots, stock_logits
from tiny_families import CLASSES, GEMMA4, STRUCTURAL

import tokenprune


def adapter_of(model):
    return tokenprune.default_registry().adapter_for(model)(model)


BENT = ("gemma3", *GEMMA4, "paligemma", "molmo2")  # windows, or image tokens that attend to each other
DECODER = tuple(name for name in CLASSES if name not in (*BENT, *STATES))
ADAPTERS = {name: adapter_of(families.model(name)) for name in STRUCTURAL}
DECODER += tuple(name for name, adapter in ADAPTERS.items() if "decoder" in adapter.provides)
BEFORE_LAYERS = tuple(
    name
    for name, adapter in ADAPTERS.items()
    if name not in (*BENT, *DECODER) and "original" in adapter.positions and not adapter.carries_state
)


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "sdpa") for name in (*CLASSES, *STRUCTURAL) if name not in WITHOUT_REFERENCE),
        *((name, "eager") for name in WHOLE),
    ],
)
def test_prefill_and_decode_equal_stock_code_fed_the_kept_rows(name, attention):
    """Positions closed up where they are a line; sliding windows and blocks as stock code makes them."""
    model, inputs = families.model(name, attention), families.inputs(name, (3, "I", 5))
    with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
        out, logits = generated(model, inputs, max_new_tokens=14)
        got = model(**inputs).logits[0]
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    want = stock_logits(model, inputs, keep, tokens)
    n = int(keep.sum())
    torch.testing.assert_close(got[keep], want[:n], **TOLERANCE)
    torch.testing.assert_close(logits[0], want[n - 1 : -1], **TOLERANCE)


@pytest.mark.parametrize("name", ["gemma3", *GEMMA4])
def test_what_is_kept_of_an_image_can_be_longer_than_the_window(name):
    """Tokens of an image attend to each other inside the window only."""
    model, inputs = families.model(name), families.inputs(name, (3, "I", 5))
    with tokenprune.apply(model, method="stride", keep=families.WINDOW + 2) as handle:
        out, logits = generated(model, inputs)
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    tokens = out.sequences[0, len(keep) :]
    want = stock_logits(model, inputs, keep, tokens)[int(keep.sum()) - 1 : -1]
    torch.testing.assert_close(logits[0], want, **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "layer"),
    [(name, layer) for layer in (0, 2) for name in DECODER] + [(name, 0) for name in BEFORE_LAYERS],
)
def test_original_positions_equal_a_full_run_that_hides_the_dropped(name, layer):
    """From the cut on, in prefill and decoding; before layer 0 at the projector stage."""
    model, inputs = families.model(name), families.inputs(name, (3, "I", 5))
    call = {"method": "divprune", "positions": "original"} if layer == 0 else {"method": "fastv", "layer": 2}
    with tokenprune.apply(model, keep=KEEP, **call) as handle:
        out, logits = generated(model, inputs)
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    tokens, n = out.sequences[0, len(keep) :], len(keep) + OPTIONS["max_new_tokens"]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    gone = (~keep).nonzero().squeeze(1)
    mask[:, gone] = False
    mask[gone, gone] = True  # their own rows may do as they like, nobody sees them

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask[None, None]}

    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens[None]], 1)}
    for key in ("attention_mask", "mm_token_type_ids"):
        if key in whole:
            whole[key] = torch.nn.functional.pad(whole[key], (0, len(tokens)), value=key == "attention_mask")
    language = getattr(model.model, "text_model", None) or model.model.language_model
    hooks = [one.register_forward_pre_hook(hide, with_kwargs=True) for one in language.layers[layer:]]
    try:
        want = model(**whole).logits[0, len(keep) - 1 : -1]
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(logits[0], want, **TOLERANCE)
