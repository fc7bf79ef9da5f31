# SPDX-License-Identifier: Apache-2.0
"""The budget `cover` on models: batches equal each picture alone, reports and caches follow, or a refusal."""

import dataclasses

import pytest
import torch
from cache_names import cache_of
from reference import llava_by_hand
from tiny_models import cut_row, llava_inputs, llava_next, llava_next_inputs, packed_rows, qwen, qwen_inputs
from tiny_models import llava as tiny_llava
from tiny_towers import TIMM, filled, pictures
from tokenprune_vllm.settings import Settings

import tokenprune
from tokenprune import cover
from tokenprune.testing import check_model

TOLERANCE = {"atol": 3e-4, "rtol": 1e-3}
DIVPRUNE = tokenprune.method("divprune")


def generated(model, inputs):
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    out = model.generate(**inputs, **options, return_dict_in_generate=True)
    return out.sequences, torch.stack(out.logits, 1)


def plain(inputs, image, like=0.0):
    """Inputs in which one picture has a single color."""
    pixels = inputs["pixel_values"].clone()
    pixels[image] = like
    return {**inputs, "pixel_values": pixels}


def rows_of(model, pixel_values):
    """The rows that enter the language model, (images, 16, D)."""
    hidden = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
    return model.model.multi_modal_projector(hidden)


def apart(rows, kept):
    """The largest cosine distance of a dropped row to the nearest kept one, in float64."""
    unit = rows.double() / rows.double().norm(dim=-1, keepdim=True)
    nearest = (1 - unit @ unit[kept].mT).amin(1)
    nearest[kept] = 0
    return float(nearest.max())


# -- LLaVA: one batch


@pytest.mark.parametrize("budget", [cover(0.4), cover(0.4, at_most=9, at_least=3)])
def test_a_batch_of_different_pictures_equals_the_reference(llava, budget):
    inputs = plain(llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,)), 1)
    before = generated(llava, inputs)
    rows = llava_by_hand.rows_of(llava, inputs, DIVPRUNE, budget, "contiguous")
    with tokenprune.apply(llava, method="divprune", keep=budget) as handle:
        sequences, logits = generated(llava, inputs)
        images = handle.last.images
    counts = [image.n_after for image in images]
    assert len(set(counts)) > 1 and min(counts) >= budget.rule.at_least
    assert [image.cuts for image in images] == [{0: n} for n in counts]
    for image, features in zip(images, rows_of(llava, inputs["pixel_values"]), strict=True):
        assert len(image.kept) == image.n_after <= budget.rows(16)
        assert image.capped == (apart(features, image.kept) > 0.4 + 1e-5)
    width = inputs["input_ids"].shape[1]
    for i, (embeds, places, after) in enumerate(rows):
        tokens, want = llava_by_hand.generate(llava, embeds, places, after, 4)
        assert sequences[i, width : width + len(tokens)].tolist() == tokens
        torch.testing.assert_close(logits[i, : len(tokens)], want, **TOLERANCE)
    assert all(torch.equal(now, then) for now, then in zip(generated(llava, inputs), before, strict=True))


def test_the_report_counts_rows_and_bytes_and_says_what_was_capped(llava_sdpa):
    inputs = plain(llava_inputs((3, "I", 5), (3, "I", 5)), 0)
    with tokenprune.apply(llava_sdpa, method="divprune", keep=cover(0.3, at_most=10)) as handle:
        cache = cache_of(llava_sdpa(**inputs, use_cache=True))
        report = handle.last
        alone = []
        for row in (0, 1):
            llava_sdpa(**cut_row(inputs, row))
            alone.append(handle.last.images[0])
    assert [image.capped for image in report.images] == [False, True]
    assert report.images[1].n_after == 10 > report.images[0].n_after
    assert [one.kept.tolist() for one in alone] == [one.kept.tolist() for one in report.images]
    assert [one.capped for one in alone] == [False, True]
    assert report.kv_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache.layers[0].keys.shape[2] == 9 + 10  # text, and the most rows of a picture
    assert report.kv_bytes_unpruned == report.kv_bytes * 25 // 19
    assert "1 of them capped by at_most" in str(report)
    with tokenprune.apply(llava_sdpa, method="divprune", keep=10) as handle:
        llava_sdpa(**inputs)
        assert [image.capped for image in handle.last.images] == [None, None]
        assert handle.last.images[1].kept.tolist() == report.images[1].kept.tolist()


def test_a_picture_with_few_tokens_is_left_alone(llava_sdpa):
    with tokenprune.apply(llava_sdpa, method="divprune", keep=cover(0.3), min_tokens=17) as handle:
        llava_sdpa(**llava_inputs((3, "I", 5)))
        (image,) = handle.last.images
    assert (image.n_after, image.capped, image.note) == (16, None, "fewer than 17 tokens")


def test_a_single_cut_in_the_decoder_covers_the_rows_there(llava_sdpa):
    inputs = plain(llava_inputs((3, "I", 5), (2, "I", 4)), 0)
    budget = cover(0.3, at_most=11)
    method = tokenprune.Method(
        "inside",
        scorer="uniform",
        selector="diverse",
        stage="decoder",
        schedule=tokenprune.GeometricSchedule((2,), depth=None),
    )
    with tokenprune.apply(llava_sdpa, method=method, keep=budget) as handle:
        together, logits = generated(llava_sdpa, inputs)
        images = handle.last.images
    assert len({image.n_after for image in images}) == 2
    assert all(image.cuts == {2: image.n_after} and image.capped is not None for image in images)
    for row in range(2):
        one = cut_row(inputs, row)
        with tokenprune.apply(llava_sdpa, method=method, keep=images[row].n_after) as handle:
            alone, want = generated(llava_sdpa, one)
            assert handle.last.images[0].kept.tolist() == images[row].kept.tolist()
        n = len(alone[0]) - one["input_ids"].shape[1]
        start = inputs["input_ids"].shape[1]
        assert together[row, start : start + n].tolist() == alone[0, -n:].tolist()
        torch.testing.assert_close(logits[row, :n], want[0, :n], **TOLERANCE)


# -- Qwen2.5-VL: pictures of different sizes, packed


@pytest.mark.parametrize("where", [{}, {"stage": "vision", "layer": 1}, {"layer": 1}])
def test_pictures_of_different_sizes_equal_each_alone(where):
    model, budget = qwen(), cover(0.5, at_most=20, at_least=2)
    inputs = qwen_inputs((3, ("I", 8, 12), 5), (2, ("I", 6, 4), 4))
    inputs["pixel_values"][-24 * 4 :] = inputs["pixel_values"][-1]  # the second picture is plain
    with tokenprune.apply(model, selector="diverse", keep=budget, **where) as handle:
        together, logits = generated(model, inputs)
        images = handle.last.images
        assert images[0].n_after > images[1].n_after >= 2
        assert [image.capped for image in images] == [images[0].n_after == 20, False]
        for row, one in enumerate(packed_rows(inputs)):
            alone, by_itself = generated(model, one)
            assert handle.last.images[0].kept.tolist() == images[row].kept.tolist()
            n = by_itself.shape[1]
            assert together[row, inputs["input_ids"].shape[1] :].tolist()[:n] == alone[0, -n:].tolist()
            torch.testing.assert_close(logits[row, :n], by_itself[0], **TOLERANCE)


def test_a_rule_in_the_tower_and_a_number_after_it():
    model = qwen()
    inputs = qwen_inputs((3, ("I", 8, 12), 5))
    tower = tokenprune.Method(
        "t", "", "uniform", "diverse", stage="vision", schedule=tokenprune.GeometricSchedule((1,), depth=None)
    )
    with tokenprune.apply(model, method=[tower, "divprune"], keep=[cover(0.4, at_most=15), 6]) as handle:
        generated(model, inputs)
        (image,) = handle.last.images
    assert image.n_after == 6 < image.tower_cuts[1] <= 15
    assert image.capped == (image.tower_cuts[1] == 15) and set(image.kept.tolist()) <= set(
        image.survivors.tolist()
    )


def test_a_video_keeps_a_token_of_each_slice():
    model = qwen()
    inputs = qwen_inputs((3, ("V", 3, 4, 4), 5))
    inputs["pixel_values_videos"][:] = inputs["pixel_values_videos"][0]
    with tokenprune.apply(model, method="divprune", keep=cover(1.9)) as handle:
        generated(model, inputs)
        (video,) = handle.last.images
    per_slice = len(video.layout) // video.layout.grid[0]
    slices = {slot // per_slice for slot in video.kept.tolist()}
    assert slices == set(range(video.layout.grid[0])) and video.n_after == len(slices)


# -- LLaVA-NeXT: tiles


@pytest.mark.parametrize("scope", ["image", "tile"])
def test_tiles_are_covered(scope):
    model = llava_next()
    inputs = llava_next_inputs(model, [(3, "I", 5), (2, "I", 4)], [(32, 64), (60, 60)])
    seen = []
    method = dataclasses.replace(DIVPRUNE, scope=scope, newlines="drop", selector=Watching(seen))
    with tokenprune.apply(model, method=method, keep=cover(0.4)) as handle:
        generated(model, inputs)
        images = handle.last.images
    assert all(image.capped is False and image.n_after < image.n_before for image in images)
    for image, rows in zip(images, seen, strict=True) if scope == "image" else ():
        candidates = (~image.layout.newlines).nonzero().squeeze(1).tolist()
        kept = [candidates.index(slot) for slot in image.kept.tolist()]
        assert apart(rows, kept) <= 0.4 + 1e-5
    if scope == "tile":
        n_tiles = [len(set(image.layout.tiles.tolist())) for image in images]
        assert sum(len(rows) if rows.ndim == 3 else 1 for rows in seen) == sum(n_tiles)
    with tokenprune.apply(model, method=method, keep=cover(0.01, at_most=4)) as handle:
        generated(model, inputs)
        assert [image.capped for image in handle.last.images] == [True, True]


@dataclasses.dataclass(frozen=True)
class Watching(tokenprune.Selector):
    """Selects as `diverse` does, and records the rows."""

    seen: list
    name = "watching"
    batched = True

    def nested(self, scored):
        return True

    def select(self, tokens, scores, keep):
        self.seen.append(tokens.features.clone())
        return tokenprune.selector("diverse").select(tokens, scores, keep)


# -- bare towers


def test_a_bare_tower_takes_one_picture_and_refuses_unequal_numbers():
    model = filled(TIMM["vit"]())
    x = pictures()
    with tokenprune.apply(model, selector="diverse", keep=cover(0.5, at_most=9), layer=2) as handle:
        model(x[:1])
        (image,) = handle.last.images
        assert image.n_after <= 9 and image.capped == (image.n_after == 9)
    with tokenprune.apply(model, selector="diverse", keep=cover(0.01, at_most=5), layer=2) as handle:
        model(x)  # all are capped, so equally many are kept
        assert [image.capped for image in handle.last.images] == [True] * len(x)
    x[0] = 0
    x[0, :, :8, :8] = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with tokenprune.apply(model, selector="diverse", keep=cover(0.5), layer=1):
        with pytest.raises(tokenprune.UnsupportedCallError, match="tokens of the pictures of this call"):
            model(x)


# -- refused


def test_what_needs_the_number_before_refuses_it(llava_sdpa):
    words = r"how many tokens keep=cover\(0.2\) keeps depends on the picture, but"
    in_vllm = f"{words} vLLM counts an image's placeholders before it looks"
    for entry in (cover(0.2), tokenprune.Cover(0.2)):
        with pytest.raises(tokenprune.IncompatibleError, match=in_vllm):
            Settings.parse({"method": "divprune", "keep": entry})
        with pytest.raises(tokenprune.IncompatibleError, match=in_vllm):
            Settings.parse({"method": "divprune", "keep": 9}).request_budget({"tokenprune": {"keep": entry}})
    with pytest.raises(tokenprune.BudgetError, match=r"keep must be an integer, .*, got 'cover\(0.2\)'"):
        Settings.parse({"method": "divprune", "keep": "cover(0.2)"})
    with pytest.raises(tokenprune.IncompatibleError, match=f"{words} the vision tower of Llava.* one batch"):
        tokenprune.apply(tiny_llava(), selector="diverse", keep=cover(0.2), stage="vision", layer=1)
    with tokenprune.apply(llava_sdpa, method="divprune", keep=cover(0.2)):
        with pytest.raises(tokenprune.UnsupportedCallError, match="which of 16 .*, and how many, depends"):
            inputs = llava_inputs((3, "I", 5))
            torch.export.export(llava_sdpa, (), {**inputs, "use_cache": False})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"keep_ratio": 0.5, "method": "divprune"}, tokenprune.BudgetError, "not both"),
        ({"method": "stride"}, tokenprune.IncompatibleError, "'topk' without scores does not"),
        ({"method": "vispruner"}, tokenprune.IncompatibleError, "'vispruner' with scores does not"),
        ({"method": "visionzip"}, tokenprune.IncompatibleError, "but the reducer 'visionzip'"),
        ({"method": "pyramiddrop"}, tokenprune.IncompatibleError, "of 3 cuts"),
        ({"selector": "duplicates"}, tokenprune.IncompatibleError, "."),
        ({"method": "divprune", "schedule": {2: 5}}, tokenprune.BudgetError, "sets how many rows"),
    ],
)
def test_apply_refuses_what_cannot_follow_a_rule(llava_sdpa, arguments, error, words):
    with pytest.raises(error, match=words):
        tokenprune.apply(llava_sdpa, keep=cover(0.2), **arguments)
    assert not tokenprune.is_pruned(llava_sdpa)


@pytest.mark.parametrize("name", ["zoo-exact", "zoo-prune", "fastv", "random"])
def test_the_promises_hold_with_methods_that_pick_one_by_one(llava_sdpa, name):
    report = check_model(llava_sdpa, methods=[name], keep=cover(0.4, at_most=12))
    assert report.passed and report.budget == "keep=cover(0.4, at_most=12)"
    assert any(record.outcome == "passed" for record in report.records)
