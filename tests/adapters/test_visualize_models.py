# SPDX-License-Identifier: Apache-2.0
"""What models kept, on pictures: each token's patch is drawn where processor and model took it from."""

import numpy as np
import pytest
import tiny_models
import tiny_towers
import torch
from model_cases import Case
from tokenprune_visualize import kept, panels, scores, seen_image, seen_pictures
from tokenprune_visualize.sheets import GAP
from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

import tokenprune

PLAIN = {"do_resize": False, "do_normalize": False}
CELL = 8
rng = np.random.default_rng(0)


def noise(height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Processor:
    """What is read of a processor: its parts."""

    def __init__(self, image=None, video=None):
        self.image_processor, self.video_processor = image, video


def patches_of(picture, rows, columns):
    """(rows, columns, s, s, 3) of a picture."""
    array = np.asarray(picture).astype(int)
    side = array.shape[0] // rows
    return array.reshape(rows, side, columns, side, 3).swapaxes(1, 2)


def is_clear(drawn, seen, at=(0, 0)):
    """Which patches of a panel show what was seen, (rows, columns); both at 8 pixels a patch."""
    height, width = np.asarray(seen).shape[:2]
    own = np.asarray(drawn)[at[0] : at[0] + height, at[1] : at[1] + width]
    shape = (height // CELL, width // CELL)
    one, other = patches_of(own, *shape), patches_of(seen, *shape)
    return (one[:, :, 1:-1, 1:-1] == other[:, :, 1:-1, 1:-1]).all((2, 3, 4))


def test_the_second_image_of_a_batch_is_drawn_on_its_own_pixels():
    images = [noise(32, 32) for _ in range(2)]
    processor = Processor(CLIPImageProcessor(**PLAIN, do_center_crop=False))
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    inputs = {**tiny_models.llava_inputs((3, "I", 5), (2, "I", 4)), "pixel_values": pixels}
    with tokenprune.apply(tiny_models.llava(), method="zoo-exact", keep=5) as handle:
        drawn = run_and_draw(handle, inputs, processor, image=1)
    one = handle.last.images[1]
    assert (one.number, one.row, one.modality) == (1, 1, "image")
    assert is_clear(drawn, images[1]).flatten().nonzero()[0].tolist() == one.kept.tolist()


def run_and_draw(handle, inputs, processor, image=0):
    model = handle._model()
    with torch.no_grad():
        model(**inputs)
    return kept(handle, inputs=inputs, processor=processor, image=image, cell=CELL)


def test_a_cropped_picture_is_drawn_as_it_was_seen():
    photo = noise(32, 64)
    processor = Processor(CLIPImageProcessor(**PLAIN, crop_size={"height": 32, "width": 32}))
    pixels = processor.image_processor([photo], return_tensors="pt")["pixel_values"]
    inputs = {**tiny_models.llava_inputs((3, "I", 5)), "pixel_values": pixels}
    with tokenprune.apply(tiny_models.llava(), method="zoo-exact", keep=5) as handle:
        drawn = run_and_draw(handle, inputs, processor)
    assert is_clear(drawn, photo[:, 16:48]).sum() == 5


@pytest.mark.parametrize("size", [(64, 64), (32, 64), (40, 64), (64, 40), (30, 62), (64, 20)])
def test_every_token_of_a_tiled_picture_is_drawn_with_its_own_patch(size):
    """Truth is the model's own packing, asked for the number of each token's patch."""
    case = Case("llava_next")
    processor = Processor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=case.model.config.image_grid_pinpoints,
            do_normalize=False,
        )
    )
    inputs = tiny_models.llava_next_inputs(case.model, [(3, "I", 5)], [size])
    inputs |= processor.image_processor([noise(*size)], return_tensors="pt")
    with tokenprune.apply(case.model, method="zoo-prune", keep=25) as handle:
        with torch.no_grad():
            case.model(**inputs)
    one = handle.last.images[0]
    number = packed_numbers(case.model, inputs)
    seen = seen_pictures(one, inputs, processor)
    where = panels(one.layout)
    drawn_slots = torch.cat([panel.slots.flatten() for panel in where])
    assert sorted(drawn_slots.tolist()) == (~one.layout.newlines).nonzero().flatten().tolist()
    left = GAP
    drawn = kept(one, inputs=inputs, processor=processor, cell=CELL)
    for panel, picture in zip(where, seen, strict=True):
        shape = tuple(panel.slots.shape)
        expected = [patch_of(inputs, processor, int(number[slot])) for slot in panel.slots.flatten()]
        assert (patches_of(picture, *shape).reshape(-1, 8, 8, 3) == np.stack(expected)).all()
        clear = is_clear(drawn, picture, (GAP, left)).flatten()
        assert clear.tolist() == [int(slot) in set(one.kept.tolist()) for slot in panel.slots.flatten()]
        left += picture.width + GAP


def packed_numbers(model, inputs):
    """Number of each token's patch among all patches of all views, -1 for a newline."""
    n = inputs["pixel_values"].shape[1]
    numbers = torch.arange(n * 16.0).view(n, 16, 1)
    packed, _ = model.model.pack_image_features(
        [numbers], inputs["image_sizes"], "default", image_newline=torch.tensor([-1.0])
    )
    return packed[0].flatten().long()


def patch_of(inputs, processor, number):
    """Pixels of a patch, by its number."""
    view, patch = divmod(number, 16)
    top, left = patch // 4 * 8, patch % 4 * 8
    pixels = inputs["pixel_values"][0, view][:, top : top + 8, left : left + 8]
    return np.asarray(seen_image(processor.image_processor, pixels)).astype(int)


SIZES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}


def test_packed_pictures_and_videos_are_unpacked_and_drawn():
    photo, clip = noise(32, 48), np.stack([noise(16, 32) for _ in range(6)])
    processor = Processor(
        Qwen2VLImageProcessor(**PLAIN, **SIZES),
        Qwen2VLVideoProcessor(**PLAIN, **SIZES, do_sample_frames=False, cap_pixels_per_frame=False),
    )
    case = Case("qwen")
    inputs = case.inputs((2, ("I", 2, 2), 1, ("I", 4, 6), 3, ("V", 3, 2, 4), 4))[0]
    small = noise(16, 16)
    inputs |= processor.image_processor([small, photo], return_tensors="pt")
    inputs |= processor.video_processor([clip], return_tensors="pt")
    with tokenprune.apply(case.model, method="zoo-exact", keep=4) as handle:
        with torch.no_grad():
            case.model(**inputs)
    one, two, video = handle.last.images
    assert [i.number for i in (one, two, video)] == [0, 1, 0]
    assert [i.modality for i in (one, two, video)] == ["image", "image", "video"]
    assert (np.asarray(seen_pictures(two, inputs, processor)[0]) == photo).all()
    drawn = kept(handle, inputs=inputs, processor=processor, image=1, cell=CELL)
    assert is_clear(drawn, photo).flatten().nonzero()[0].tolist() == two.kept.tolist()
    slices = seen_pictures(video, inputs, processor)
    assert all((np.asarray(slices[t]) == clip[2 * t]).all() for t in range(3))
    drawn = kept(handle, inputs=inputs, processor=processor, image=2, cell=CELL)
    assert drawn.size == (3 * 32 + 4 * GAP, 16 + 2 * GAP)
    clear = [is_clear(drawn, slices[t], (GAP, GAP + t * (32 + GAP))) for t in range(3)]
    assert np.concatenate(clear).flatten().nonzero()[0].tolist() == video.kept.tolist()
    assert all(c.any() for c in clear)  # every slice keeps one


def run_llava(handle):
    with torch.no_grad():
        handle._model()(**tiny_models.llava_inputs((3, "I", 5)))


def run_tower(handle):
    with torch.no_grad():
        handle._model()(tiny_towers.pictures())


@pytest.mark.parametrize(
    ("model", "run", "strategy", "side"),
    [
        (tiny_models.llava, run_llava, {"method": "fastv"}, 4),
        (
            lambda: tiny_towers.timm_model("vit"),
            run_tower,
            {"scorer": tokenprune.scorer("attention", source="received"), "stage": "vision"},
            6,
        ),
    ],
    ids=["decoder", "tower"],
)
def test_scores_of_the_last_of_several_cuts_lie_where_its_tokens_were(model, run, strategy, side):
    with tokenprune.apply(model(), **strategy, schedule={1: 9, 3: 4}) as handle:
        run(handle)
    one = handle.last.images[-1]
    assert len(one.scores) == len(one.found) == 9
    assert set(one.kept.tolist()) < set(one.found.tolist())
    assert one.found[one.scores.topk(4).indices].sort().values.tolist() == one.kept.tolist()
    white = np.full((side, side, 3), 255, np.uint8)
    array = np.asarray(scores(one, white, cell=CELL))[: side * CELL]
    grey = (array == array[..., :1]).all(-1).reshape(side, CELL, side, CELL).all((1, 3)).flatten()
    assert (~grey).nonzero()[0].tolist() == sorted(one.found.tolist())
