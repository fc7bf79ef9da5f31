# SPDX-License-Identifier: Apache-2.0
"""Models that cannot be pruned, and budgets that do not fit the picture."""

import pytest
import tiny_models
import torch
import transformers
from model_cases import Case
from reference.kept_rows import kept_slots, stock_logits
from tiny_models import llava_next_inputs, qwen_inputs

import tokenprune

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}


def test_a_text_only_model_is_refused():
    model = transformers.LlamaForCausalLM(tiny_models.llava().config.text_config)
    for given in (model, model.model):
        with pytest.raises(tokenprune.UnsupportedModelError) as error:
            tokenprune.apply(given, keep=4)
        said = str(error.value)
        assert said.startswith(f"no adapter knows {type(given).__module__}.{type(given).__name__} (tried: ")
        assert f"{type(given).__name__} takes no images, so it has no visual tokens" in said
        assert "Pass the whole model, with its head and without wrappers" in said
        assert not tokenprune.is_pruned(given)


def test_a_class_nobody_supports_is_refused():
    with torch.device("meta"):
        model = transformers.GitForCausalLM(transformers.GitConfig(num_hidden_layers=1))
    with pytest.raises(tokenprune.UnsupportedModelError, match="no adapter knows .*GitForCausalLM") as error:
        tokenprune.apply(model, keep=4)
    message = str(error.value)
    assert "GitForCausalLM has no get_image_features, so its image rows cannot be told from text" in message
    assert "docs/writing-an-adapter.md" in message and "takes no images" not in message


@pytest.mark.parametrize(
    ("family", "base", "whole"),
    [
        ("llava", "LlavaModel", "LlavaForConditionalGeneration"),
        ("llava_next", "LlavaNextModel", "LlavaNextForConditionalGeneration"),
        ("qwen", "Qwen2_5_VLModel", "Qwen2_5_VLForConditionalGeneration"),
    ],
)
def test_a_model_without_its_head_is_told_the_class_that_has_it(family, base, whole):
    model = getattr(tiny_models, family)().model
    words = (
        rf"no adapter knows .*\.{base} .* {base}, which AutoModel loads, is {whole} without its head; pass"
    )
    with pytest.raises(tokenprune.UnsupportedModelError, match=words) as caught:
        tokenprune.apply(model, keep=4)
    assert "as loaded by from_pretrained" not in str(caught.value)
    heir = type("Mine", (type(model),), {})
    model.__class__ = heir
    with pytest.raises(tokenprune.UnsupportedModelError, match=f"Mine, which AutoModel loads, is {whole}"):
        tokenprune.apply(model, keep=4)


@pytest.mark.parametrize("part", ["model", "model.language_model", "model.vision_tower"])
def test_a_part_of_a_model_is_refused(part):
    with pytest.raises(tokenprune.UnsupportedModelError, match="Pass the whole model"):
        tokenprune.apply(tiny_models.llava().get_submodule(part), keep=4)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_a_picture_smaller_than_the_budget_stays_whole_and_the_report_says_so(method):
    """Four tokens, in a batch with twenty-four."""
    model, inputs = Case("qwen").model, qwen_inputs((3, ("I", 2, 2), 5), (2, ("I", 4, 6), 6))
    unpruned = model(**inputs).logits
    with tokenprune.apply(model, method=method, keep=7) as handle:
        pruned = model(**inputs).logits
        small, large = handle.last.images
    assert (small.n_before, small.n_after, small.kept, small.note) == (4, 4, None, "budget not below N")
    assert (large.n_before, large.n_after, large.note) == (24, 7, "")
    torch.testing.assert_close(pruned[0, -6:], unpruned[0, -6:], **TOLERANCE)
    assert not torch.allclose(pruned[1, -1], unpruned[1, -1], **TOLERANCE)


@pytest.mark.parametrize(("keep", "slices"), [(5, [0, 1, 2, 3, 4]), (2, None)])
def test_more_slices_of_a_video_than_rows_to_keep(keep, slices):
    """With a row for each slice all are seen; with fewer rows the method's own picks stand."""
    model, inputs = Case("qwen").model, qwen_inputs((3, ("V", 5, 2, 2), 5))
    with tokenprune.apply(model, method="zoo-exact", keep=keep) as handle:
        got = model(**inputs).logits[0, -1]
        (video,) = handle.last.images
    assert (video.n_before, video.n_after, video.layout.grid) == (20, keep, (5, 2, 2))
    if slices is not None:
        assert (video.kept // 4).tolist() == slices
    none = inputs["input_ids"][0, :0]
    want = stock_logits(model, inputs, kept_slots(inputs["input_ids"][0], [video]), none)[-1]
    torch.testing.assert_close(got, want, **TOLERANCE)


@pytest.mark.parametrize(
    ("keep", "size", "per_tile"),
    [(3, (64, 64), [1, 1, 1]), (4, (64, 32), [1, 1]), (1, (64, 32), [1]), (1, (64, 64), [1])],
)
def test_fewer_rows_than_tiles_go_to_the_first_tiles(keep, size, per_tile):
    """Five tiles of a square picture, three of a tall one: 4 rows shrink to 4 * 3 / 5 = 2."""
    model = Case("llava_next").model
    inputs = llava_next_inputs(model, [(3, "I", 5)], [size])
    with tokenprune.apply(model, method="zoo-exact", keep=keep) as handle:
        got = model(**inputs).logits[0, -1]
        (image,) = handle.last.images
    assert image.layout.full_tiles == 5
    assert image.layout.tiles[image.kept].bincount().tolist() == per_tile
    none = inputs["input_ids"][0, :0]
    want = stock_logits(model, inputs, kept_slots(inputs["input_ids"][0], [image]), none)[-1]
    torch.testing.assert_close(got, want, **TOLERANCE)
