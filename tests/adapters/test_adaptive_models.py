# SPDX-License-Identifier: Apache-2.0
"""Methods whose number of rows depends on the picture, on models: exact, in batches, or refused."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from reference import decoder_by_hand, llava_by_hand
from tiny_models import cut_row, packed_rows, qwen, qwen_inputs
from tiny_models import llava as tiny_llava
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


def test_vllm_refuses_it_because_placeholders_are_counted_first():
    words = "'uniform\\+duplicates' keeps depends on the picture, but vLLM counts an image's placeholders"
    with pytest.raises(tokenprune.IncompatibleError, match=words):
        Settings.parse({"selector": "duplicates", "keep": 64})
    filled = {"selector": "duplicates", "keep": 64, "options": {"fill": True}}
    assert Settings.parse(filled).rows(tokenprune.Layout((1, 24, 24)), tokenprune.Budget(64)) == 64


def repeated(inputs, name="pixel_values", seed=0):
    """Inputs whose tokens have the pixels of one of two tokens, so that many are duplicates."""
    tokens = inputs[name].view(-1, 4 * inputs[name].shape[-1])
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 4, (len(tokens),), generator=generator).clamp(max=1)
    return {**inputs, name: tokens[numbers].view_as(inputs[name])}


def expected(inputs, keep, name="pixel_values", grids="image_grid_thw"):
    """What `duplicates` keeps of each picture, or video, by its pixels alone."""
    method, start, kept = tokenprune.Method("pixels", scorer="uniform", selector="duplicates"), 0, []
    pixels = inputs[name].view(-1, 4 * inputs[name].shape[-1])
    for t, h, w in inputs[grids].tolist():
        layout = tokenprune.Layout((t, h // 2, w // 2))
        rows = pixels[start : start + len(layout)]
        tokens = tokenprune.VisualTokens(rows[:, :1], {"pixels": rows}, layout)
        kept.append(method.select(tokens, keep).indices.tolist())
        start += len(layout)
    return kept


DUPLICATES = {"selector": "duplicates", "stage": "vision", "layer": 0}


@pytest.mark.parametrize(("budget", "keep"), [({"keep_ratio": 1.0}, 10**6), ({"keep": 5}, 5)])
def test_pictures_of_a_packed_tower_lose_their_own_duplicates(budget, keep):
    model = qwen()
    inputs = repeated(qwen_inputs((3, ("I", 8, 12), 5), (2, ("I", 6, 4), 4)))
    with tokenprune.apply(model, **DUPLICATES, **budget) as handle:
        together, logits = generated(model, inputs)
        images = handle.last.images
        want = expected(inputs, keep)
        assert [image.kept.tolist() for image in images] == want
        assert [(image.n_before, image.n_after) for image in images] == [
            (96, len(want[0])),
            (24, len(want[1])),
        ]
        for row, one in enumerate(packed_rows(inputs)):
            alone, by_itself = generated(model, one)
            n = by_itself.shape[1]
            assert together[row, inputs["input_ids"].shape[1] :].tolist()[:n] == alone[0, -n:].tolist()
            torch.testing.assert_close(logits[row, :n], by_itself[0], **TOLERANCE)


def test_a_video_keeps_a_token_of_each_frame_and_a_later_cut_sees_what_is_left():
    model = qwen()
    inputs = repeated(qwen_inputs((3, ("V", 3, 4, 4), 5)), "pixel_values_videos", seed=1)
    (want,) = expected(inputs, 10**6, "pixel_values_videos", "video_grid_thw")
    assert {slot // 16 for slot in want} == {0, 1, 2} and 6 < len(want) < 48
    first = tokenprune.Method("pages", scorer="uniform", selector="duplicates", stage="vision")
    methods = [first.with_options(layer=0), "divprune"]
    with tokenprune.apply(model, method=methods, keep=[48, 6]) as handle:
        generated(model, inputs)
        (image,) = handle.last.images
    assert image.tower_cuts == {0: len(want)} and image.n_after == 6
    assert set(image.kept.tolist()) <= set(want)


def test_towers_of_equal_rows_refuse_it():
    with pytest.raises(tokenprune.IncompatibleError, match="depends on the picture"):
        tokenprune.apply(tiny_llava(), selector=Long(), keep=9, stage="vision", layer=1)
