# SPDX-License-Identifier: Apache-2.0
"""Methods whose number of rows depends on the picture, on models: exact, in batches, or refused."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from reference import decoder_by_hand, llava_by_hand
from tiny_models import cut_row
from tiny_towers import pictures, timm_model
from tokenprune_vllm.settings import Settings

import tokenprune
from tokenprune.testing import check_model

TOLERANCE = {"atol": 3e-4, "rtol": 1e-3}


@dataclass(frozen=True)
class Long(tokenprune.Selector):
    """Keeps the tokens whose rows are longer than the mean, at most `keep`."""

    name: ClassVar[str] = "long"
    adaptive: ClassVar[bool] = True

    def select(self, tokens, scores, keep):
        lengths = tokens.features.norm(dim=-1)
        return tokenprune.Selection.from_order((lengths >= lengths.mean()).nonzero().squeeze(1)[:keep])


LONG = tokenprune.Method("long", scorer="uniform", selector=Long())
INSIDE = LONG.with_options(stage="decoder", schedule=tokenprune.GeometricSchedule((1, 2), depth=None))


def generated(model, inputs):
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    out = model.generate(**inputs, **options, return_dict_in_generate=True)
    return out.sequences, torch.stack(out.logits, 1)


@pytest.mark.parametrize("keep", [9, 16, 99])
def test_a_batch_of_different_counts_equals_the_reference(llava, inputs, keep):
    rows = llava_by_hand.rows_of(llava, inputs, LONG, keep, "contiguous")
    with tokenprune.apply(llava, method=LONG, keep=keep) as handle:
        sequences, logits = generated(llava, inputs)
    counts = [image.n_after for image in handle.last.images]
    assert len(set(counts)) > 1 and max(counts) < 16
    assert [image.cuts for image in handle.last.images] == [{0: n} for n in counts]
    assert [len(image.kept) for image in handle.last.images] == counts
    assert not any(image.note for image in handle.last.images)
    width = inputs["input_ids"].shape[1]
    for i, (embeds, places, after) in enumerate(rows):
        tokens, want = llava_by_hand.generate(llava, embeds, places, after, 4)
        assert sequences[i, width : width + len(tokens)].tolist() == tokens
        torch.testing.assert_close(logits[i, : len(tokens)], want, **TOLERANCE)


@pytest.mark.parametrize("keep", [5, 16])
def test_so_do_cuts_inside_the_decoder(llava, inputs, keep):
    with tokenprune.apply(llava, method=INSIDE, keep=keep) as handle:
        together, logits = generated(llava, inputs)
        counts = [image.n_after for image in handle.last.images]
    assert max(counts) <= keep and max(counts) < 16
    for row in range(2):
        one = cut_row(inputs, row)
        if row == 0 and keep == 5:
            tokens, want, _ = decoder_by_hand.generate(llava, one, INSIDE, keep, "contiguous", 4)
            torch.testing.assert_close(logits[0, : len(tokens)], want, **TOLERANCE)
        with tokenprune.apply(llava, method=INSIDE, keep=keep):
            alone, want = generated(llava, one)
        n = len(alone[0]) - one["input_ids"].shape[1]
        start = inputs["input_ids"].shape[1]
        assert together[row, start : start + n].tolist() == alone[0, -n:].tolist()
        torch.testing.assert_close(logits[row, :n], want[0, :n], **TOLERANCE)


def test_the_check_of_a_model_leaves_the_identity_out(llava):
    records = {record.promise: record for record in check_model(llava, methods=[LONG]).records}
    assert records["identity"].outcome == "not applicable"
    assert "depends on the picture" in records["identity"].note
    assert {record.outcome for name, record in records.items() if name != "identity"} <= {
        "passed",
        "not applicable",
    }


def test_an_export_is_refused_whatever_the_budget(llava, inputs):
    with tokenprune.apply(llava, method=LONG, keep=99):
        with pytest.raises(tokenprune.UnsupportedCallError, match="which of 16 .*, and how many, depends"):
            torch.export.export(llava, (), {**inputs, "use_cache": False})


def test_bare_towers_refuse_it_and_stay_as_they_are():
    model, x = timm_model("vit"), pictures()
    before = model(x)
    with pytest.raises(tokenprune.IncompatibleError, match="'uniform\\+long' keeps .* equally many"):
        tokenprune.apply(model, selector=Long(), keep=9, layer=2)
    assert torch.equal(model(x), before)


def test_vllm_refuses_it_because_placeholders_are_counted_first():
    words = "'uniform\\+duplicates' keeps depends on the picture, but vLLM counts an image's placeholders"
    with pytest.raises(tokenprune.IncompatibleError, match=words):
        Settings.parse({"selector": "duplicates", "keep": 64})
    filled = {"selector": "duplicates", "keep": 64, "options": {"fill": True}}
    assert Settings.parse(filled).rows(tokenprune.Layout((1, 24, 24)), tokenprune.Budget(64)) == 64
