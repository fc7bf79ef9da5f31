# SPDX-License-Identifier: Apache-2.0
"""Batches without padding, whose positions are one row for all: each row chooses as it does alone."""

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from tiny_models import llava_inputs, qwen_inputs

import tokenprune

ROWS = {
    "llava": (lambda *rows: llava_inputs(*rows), ((3, "I", 5), (4, "I", 4))),
    "qwen": (lambda *rows: qwen_inputs(*rows), ((3, ("I", 4, 4), 5), (4, ("I", 4, 4), 4))),
}
METHODS = [
    ("sparsevlm-plus", {}),  # looks at positions and the rotary embedding
    ("sparsevlm-plus", {"positions": "original"}),
    ("dart", {}),
    ("sparsevlm", {}),
    ("pyramiddrop", {}),
]


@pytest.mark.parametrize("with_mask", [True, False])
@pytest.mark.parametrize("family", ["llava", "qwen"])
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_each_row_of_an_unpadded_batch_chooses_as_it_does_alone(family, name, options, with_mask):
    model, (make, rows) = Case(family).model, ROWS[family]
    batch = make(*rows)
    pixels = batch["pixel_values"].chunk(len(rows))
    kept, logits = [], []
    with torch.no_grad(), tokenprune.apply(model, method=name, keep=4, **options) as handle:
        for number, row in enumerate(rows):
            alone = {**make(row), "pixel_values": pixels[number]}
            alone["input_ids"] = batch["input_ids"][number : number + 1]
            logits.append(model(**alone).logits[0, -1])
            kept.append(handle.last.images[0].kept.tolist())
        inputs = batch if with_mask else {k: v for k, v in batch.items() if k != "attention_mask"}
        together = model(**inputs).logits[:, -1]
        assert [image.kept.tolist() for image in handle.last.images] == kept
    torch.testing.assert_close(together, torch.stack(logits), atol=1e-4, rtol=1e-4)


def test_so_it_does_by_the_order_of_a_set_of_positions():
    model, rows = tiny_models.llava(), ((3, "I", 5), (4, "I", 4), (2, "I", 6))
    dart = tokenprune.method("dart", visit="set")
    batch = llava_inputs(*rows)
    with torch.no_grad(), tokenprune.apply(model, method=dart, keep=6) as handle:
        model(**batch)
        together = [image.kept.tolist() for image in handle.last.images]
        for number in range(3):
            one = {name: value[number : number + 1] for name, value in batch.items()}
            model(**one)
            assert handle.last.images[0].kept.tolist() == together[number]


@pytest.mark.parametrize(("family", "default"), [("llava", "contiguous"), ("qwen", "original")])
def test_a_cut_that_says_nothing_of_positions_follows_the_models_first_rule(family, default):
    """A scorer and a selector with `layer=` say nothing; what comes later stands where that rule puts it."""
    model, (make, rows) = Case(family).model, ROWS[family]
    inputs, rules = make(rows[0]), tokenprune.default_registry().adapter_for(model)(model).positions
    assert rules[0] == default
    found = {}
    with torch.no_grad():
        for positions in (None, *rules):
            with tokenprune.apply(
                model, scorer="random", selector="topk", layer=2, keep=4, positions=positions
            ) as handle:
                out = model(**inputs, use_cache=True)
                follow = (
                    model(input_ids=torch.tensor([[7]]), **{CACHE: cache_of(out)})
                    if family == "llava"
                    else out
                )
                found[positions] = follow.logits[0, -1]
                assert handle.last.images[0].n_after == 4
    assert torch.equal(found[None], found[default])
    for other in rules[1:]:
        assert not torch.allclose(found[None], found[other], atol=1e-5)
