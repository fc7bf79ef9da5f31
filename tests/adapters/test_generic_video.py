# SPDX-License-Identifier: Apache-2.0
"""Videos, and images beside them, on the families beyond the main three."""

import pytest
import tiny_families as families
import torch
from family_cases import TOLERANCE, VERSION, generated
from packaging.version import Version
from reference.kept_rows import kept_slots, stock_logits
from tiny_families import BOS, GEMMA4, IMAGE, VIDEO, batch, cut_row

import tokenprune

OMNIS = tuple(name for name in families.CLASSES if name.endswith("omni"))
QWENS = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


def video_row(name, frames):
    """A row with one video of frames of 2 x 4 tokens; from Qwen3-VL on each frame stands on its own."""
    tokens = [VIDEO] * 8
    if name in ("qwen2_vl", *OMNIS):
        return [1, 5, 92, *tokens * frames, 93, 7, 8, 9]
    return [1, 5, *(t for i in range(frames) for t in (10 + i, 92, *tokens, 93)), 7, 8, 9]


@pytest.mark.parametrize("name", [*QWENS, *OMNIS])
def test_videos_and_an_image_beside_one(name):
    model, draw = families.model(name), torch.Generator().manual_seed(3)
    rows = [video_row(name, 3), [*video_row(name, 2), 92, *[IMAGE] * 24, 93, 4, 5]]
    inputs = batch(rows)
    grids = torch.tensor([[3, 4, 8], [2, 4, 8]])
    pixels = torch.randn(int(grids.prod(1).sum()), 96, generator=draw)
    image = {
        "pixel_values": torch.randn(96, 96, generator=draw),
        "image_grid_thw": torch.tensor([[1, 8, 12]]),
    }
    inputs |= {"pixel_values_videos": pixels, "video_grid_thw": grids, **image}
    if name in OMNIS:
        inputs["video_second_per_grid"] = torch.ones(2)
    else:
        kinds = (inputs["input_ids"] == IMAGE) + 2 * (inputs["input_ids"] == VIDEO).int()
        inputs["mm_token_type_ids"] = kinds
    with tokenprune.apply(model, method="zoo-exact", keep=7) as handle:
        _, logits = generated(model, inputs)
        assert sorted((i.row, i.n_before, i.n_after, i.layout.grid) for i in handle.last.images) == [
            (0, 24, 7, (3, 2, 4)),
            (1, 16, 7, (2, 2, 4)),
            (1, 24, 7, (1, 4, 6)),
        ]
        for row, (start, stop) in enumerate(((0, 96), (96, 160))):
            alone = cut_row(name, inputs, row) | {
                "pixel_values_videos": pixels[start:stop],
                "video_grid_thw": grids[row : row + 1],
            }
            if name in OMNIS:
                alone["video_second_per_grid"] = torch.ones(1)
            torch.testing.assert_close(logits[row], generated(model, alone)[1][0], **TOLERANCE)


@pytest.mark.parametrize("method", ["divprune", "fastv", "sparsevlm", "pool"])
def test_videos_of_llava_onevision(method):
    """Three frames of 2 x 2 pooled tokens and a newline: a line of 13 to strategies; here beside an image."""
    model, draw = families.model("llava_onevision"), torch.Generator().manual_seed(3)
    n_image, film = families.tokens_of("llava_onevision"), [VIDEO] * 13
    inputs = batch([[BOS, 5, *film, 7, 8], [BOS, 6, *film, 9, *[IMAGE] * n_image, 10], [BOS, 11]])
    videos = torch.randn(2, 3, 3, 32, 32, generator=draw)
    image = {"pixel_values": torch.randn(1, 3, 3, 32, 32, generator=draw)}
    image["image_sizes"] = torch.tensor([[32, 64]])
    runs = []
    with tokenprune.apply(model, method=method, keep=5) as handle:
        out, logits = generated(model, {**inputs, **image, "pixel_values_videos": videos})
        images = handle.last.images
        for row in range(2):
            alone = {k: v[row : row + 1, inputs["attention_mask"][row].bool()] for k, v in inputs.items()}
            alone |= {"pixel_values_videos": videos[row : row + 1], **(image if row else {})}
            runs.append((alone, *generated(model, alone), handle.last.images))
    assert torch.equal(out.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    found = [(i.row, i.n_before, i.n_after, i.layout.newlines.nonzero()[-1].item()) for i in images]
    assert found == [(1, n_image, 5, n_image - 1), (0, 13, 5, 12), (1, 13, 5, 12)]
    for row, (alone, one, got, kept) in enumerate(runs):
        torch.testing.assert_close(logits[row], got[0], **TOLERANCE)
        if method == "divprune":
            ids = alone["input_ids"][0]
            keep = kept_slots(ids, kept)
            want = stock_logits(model, alone, keep, one.sequences[0, len(ids) :])
            torch.testing.assert_close(got[0], want[int(keep.sum()) - 1 : -1], **TOLERANCE)


@pytest.mark.skipif(
    VERSION < Version("5.20"), reason="frames of all videos in a row from transformers 5.20 on"
)
@pytest.mark.parametrize("name", GEMMA4)
def test_videos_of_gemma_4(name):
    """Frames of 2 x 4 tokens with text between them; one of two videos beside an image."""
    model, draw = families.model(name), torch.Generator().manual_seed(3)
    frame = [92, *[VIDEO] * 8, 93]
    image = [92, *[IMAGE] * 16, 93]
    rows = [[BOS, 5, *frame, 6, *frame, 7, *frame, 8], [BOS, *frame, 9, *frame, 4, *image, 5]]
    inputs = batch(rows)
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE) + 2 * (inputs["input_ids"] == VIDEO).int()
    places = torch.cartesian_prod(torch.arange(4), torch.arange(8)).flip(1)
    pixels, counts = torch.rand(5, 32, 48, generator=draw), torch.tensor([3, 2])
    videos = {"pixel_values_videos": pixels, "video_position_ids": places.repeat(5, 1, 1)}
    videos["num_frames_per_video"] = counts
    picture = families.inputs(name, ("I",))
    picture = {key: picture[key] for key in ("pixel_values", "image_position_ids")}
    runs = []
    with tokenprune.apply(model, method="zoo-exact", keep=7) as handle:
        _, logits = generated(model, {**inputs, **videos, **picture})
        assert [(i.row, i.modality, i.n_before, i.n_after, i.layout.grid) for i in handle.last.images] == [
            (1, "image", 16, 7, (1, 4, 4)),
            (0, "video", 24, 7, (3, 2, 4)),
            (1, "video", 16, 7, (2, 2, 4)),
        ]
        for row, (start, stop) in enumerate(((0, 3), (3, 5))):
            real = inputs["attention_mask"][row].bool()
            alone = {key: value[row : row + 1, real] for key, value in inputs.items()}
            alone |= {key: value[start:stop] for key, value in videos.items()}
            alone["num_frames_per_video"] = counts[row : row + 1]
            alone |= picture if row else {}
            runs.append((alone, *generated(model, alone), handle.last.images))
    for row, (alone, out, got, images) in enumerate(runs):
        torch.testing.assert_close(logits[row], got[0], **TOLERANCE)
        ids = alone["input_ids"][0]
        keep = kept_slots(ids, images)
        want = stock_logits(model, alone, keep, out.sequences[0, len(ids) :])
        torch.testing.assert_close(got[0], want[int(keep.sum()) - 1 : -1], **TOLERANCE)


GLMS = ("glm4v", "glm4v_moe", "glm46v")


@pytest.mark.parametrize("name", GLMS)
@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_videos_of_glm_on_the_placeholders_of_images(name, method):
    model, draw = families.model(name), torch.Generator().manual_seed(3)
    video = [96, *(t for _ in range(2) for t in (92, *[IMAGE] * 6, 93)), 97]
    inputs = batch([[BOS, 5, *video, 7, 8, 9], [BOS, *video, 4]])
    inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == IMAGE).int()
    pixels = torch.randn(96, 96, generator=draw)
    inputs |= {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[2, 4, 6]] * 2)}
    with tokenprune.apply(model, method=method, keep=5) as handle:
        _, logits = generated(model, inputs)
        assert [(i.row, i.modality, i.n_before, i.n_after) for i in handle.last.images] == [
            (0, "video", 12, 5),
            (1, "video", 12, 5),
        ]
        assert handle.last.images[0].layout.grid == (2, 2, 3)
        for row in range(2):
            real = inputs["attention_mask"][row].bool()
            names = ("input_ids", "attention_mask", "mm_token_type_ids")
            alone = {key: inputs[key][row : row + 1, real] for key in names}
            alone["pixel_values_videos"] = pixels[48 * row : 48 * (row + 1)]
            alone["video_grid_thw"] = inputs["video_grid_thw"][row : row + 1]
            torch.testing.assert_close(logits[row], generated(model, alone)[1][0], **TOLERANCE)
    assert (logits - generated(model, inputs)[1]).abs().max() > 0.1


def test_glm_with_an_image_and_a_video_in_a_call_is_stock_s_error():
    model = families.model("glm4v")
    inputs = families.inputs("glm4v", (3, "I", 5))
    inputs |= {"pixel_values_videos": torch.randn(48, 96), "video_grid_thw": torch.tensor([[2, 4, 6]])}
    with pytest.raises((RuntimeError, ValueError), match="do not match"):
        model(**inputs)
    with tokenprune.apply(model, method="divprune", keep=5):
        with pytest.raises((RuntimeError, ValueError), match="do not match"):
            model(**inputs)


@pytest.mark.skipif("perception_lm" not in families.STRUCTURAL, reason="not in this transformers")
def test_a_video_that_would_not_be_pruned_is_refused():
    """Perception LM encodes videos as images, so that they cannot be told apart."""
    model, inputs = families.model("perception_lm"), families.inputs("perception_lm", (3, "I", 5))
    inputs["input_ids"][inputs["input_ids"] == IMAGE] = VIDEO
    inputs["pixel_values_videos"] = inputs.pop("pixel_values")
    unpruned = model(**inputs).logits
    with tokenprune.apply(model, method="divprune", keep=5):
        with pytest.raises(tokenprune.UnsupportedCallError, match="videos of this model cannot be pruned"):
            model(**inputs)
    assert torch.equal(model(**inputs).logits, unpruned)
