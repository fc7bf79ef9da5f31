# SPDX-License-Identifier: Apache-2.0
"""Videos of the families that are supported by their structure, written as their processors write them."""

from dataclasses import dataclass, field

import pytest
import tiny_families as families
import torch
from family_cases import TOLERANCE, VERSION, generated
from packaging.version import Version
from reference.kept_rows import kept_slots, stock_logits
from tiny_families import BOS, IMAGE, STRUCTURAL, VIDEO, batch
from tiny_structures import PLACES, Pictures, packed, pooled, side_by_side, stacked

import tokenprune

FRAMES, KEEP = 3, 5
AS_OF_VIDEOS = {  # models take videos as they take pictures, by other names
    "pixel_values": "pixel_values_videos",
    "image_grid_thw": "video_grid_thw",
    "image_merge_sizes": "video_merge_sizes",
    "image_position_ids": "video_position_ids",
    "image_token_pooling": "video_token_pooling",
    "image_grids": "video_grids",
    "target_sizes": "target_sizes_videos",
}


@dataclass(frozen=True)
class Film:
    """A video of three frames in a family, and its tokens in a prompt.

    `pictures` makes `given` entries for a video; `more` are arguments with an entry for each video. The model
    encodes `parts`: one video, or one for each of its frames. `n` is the number of tokens of a frame, which
    stand between those of `marks`; `times`: behind a timestamp. `ends` stand around the whole video.
    """

    pictures: Pictures
    given: int = 1
    more: dict = field(default_factory=dict)
    parts: int = 1
    n: int = 16
    times: bool = True
    marks: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    placeholder: int = VIDEO

    def tokens(self):
        """The tokens of a video."""
        frame = [*self.marks[:1], *[self.placeholder] * self.n, *self.marks[1:]]
        frames = [t for i in range(FRAMES) for t in (*[10 + i] * self.times, *frame)]
        return [*self.ends[:1], *frames, *self.ends[1:]]

    def inputs(self, pictures, n_videos=1):
        """What a model is given for videos of these pictures."""
        named = {AS_OF_VIDEOS[name]: value for name, value in pictures.items()}
        return named | {name: torch.tensor([value] * n_videos) for name, value in self.more.items()}


MARKED, UNMARKED, FRAME_BY_FRAME = {"marks": (92, 93)}, {"times": False}, {"given": FRAMES, "parts": FRAMES}
FRAMES_96 = packed(64 * FRAMES, 96, grid=(FRAMES, 8, 8))
FRAMES_48 = packed(64 * FRAMES, 48, grid=(FRAMES, 8, 8))
SQUARE_FRAMES = stacked(pixel_values=(FRAMES, 3, 32, 32))
VIDEOS = {
    "cohere_compass": Film(FRAMES_96, **MARKED),
    "cosmos3_edge": Film(FRAMES_48, **MARKED),
    "cosmos3_omni": Film(FRAMES_96, **MARKED),
    # two pictures of a video make a frame of tokens
    "ernie4_5_vl_moe": Film(packed(128 * FRAMES, 48, grid=(2 * FRAMES, 8, 8)), ends=(96, 97), **UNMARKED),
    "exaone4_5": Film(FRAMES_96, ends=(92, 93), **UNMARKED),
    "gemma4_unified": Film(
        stacked(pixel_values=(16, 192), image_position_ids=PLACES),
        given=FRAMES,
        more={"num_frames_per_video": FRAMES},
        **MARKED,
    ),
    "glm_ocr": Film(FRAMES_96, ends=(96, 97), placeholder=IMAGE, **MARKED),
    "hyperclovax_vision_v2": Film(FRAMES_96, **UNMARKED),
    "kimi_k25": Film(packed(128, 3, 4, 4, grid=(2, 8, 8)), **FRAME_BY_FRAME, **MARKED),  # of two, averaged
    "lfm3_vl": Film(FRAMES_96, **MARKED),
    "llava_next_video": Film(SQUARE_FRAMES, n=4, **UNMARKED),
    "minicpm_ocr": Film(side_by_side(1024), n=64, times=False, **FRAME_BY_FRAME, **MARKED),
    "minicpmv4_6": Film(side_by_side(1024), times=False, **FRAME_BY_FRAME, **MARKED),
    "minicpmv4_7": Film(side_by_side(1024), times=False, **FRAME_BY_FRAME, **MARKED),
    "minimax_m3_full": Film(FRAMES_96, **MARKED),
    "molmo2": Film(
        pooled(), given=FRAMES, more={"video_grids": (FRAMES, 4, 4)}, placeholder=IMAGE, marks=(96, 97)
    ),
    "muse_glimmer": Film(FRAMES_96, ends=(92, 93)),
    "muse_spark": Film(FRAMES_96, ends=(92, 93)),
    "video_llama_3": Film(
        packed(64 * FRAMES, 48, grid=(FRAMES, 8, 8), more={"image_merge_sizes": torch.tensor([2])})
    ),
    "video_llava": Film(SQUARE_FRAMES, parts=FRAMES, n=17, **UNMARKED),
}
ELSEWHERE = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen2_5_omni", "qwen3_omni")
ELSEWHERE += ("glm4v", "glm4v_moe", "glm46v", *families.GEMMA4, "llava_onevision")  # test_generic_video
UNTESTED = {}  # families whose videos no test runs, and why
SINCE = {  # what cannot be run in the tested versions before
    "cosmos3_edge": ("5.23", "its decoder takes positions of three axes, and the reference makes four"),
    "gemma4_unified": (
        "5.23",
        "stock forward does not pass the numbers of frames on; 5.17 has another format",
    ),
    "kimi_k25": ("5.24", "stock code splits the rows as if it did not average those of several frames"),
    "minimax_m3_full": ("5.23", "patches of all videos of a call attend to each other in the stock tower"),
}


def cases():
    """The families of this transformers, with what cannot be run."""
    for name in VIDEOS:
        first, why = SINCE.get(name, ("0", ""))
        marks = [pytest.mark.skipif(VERSION < Version(first), reason=why)]
        if name in STRUCTURAL:
            yield pytest.param(name, marks=marks)


def kinds(name, ids):
    """Which tokens are a video's, if the model is told; Molmo 2 is told that they are an image's."""
    if not STRUCTURAL[name].kinds:
        return {}
    is_video = (ids == VIDEOS[name].placeholder).int()
    return {"mm_token_type_ids": is_video if name == "molmo2" else 2 * is_video}


@pytest.mark.parametrize("name", list(cases()))
def test_videos_equal_the_row_alone_and_stock_code_fed_the_kept_rows(name):
    """A left-padded batch of two rows with a video each; prefill and decoding of each row alone."""
    model, film = families.model(name), VIDEOS[name]
    inputs = batch([[BOS, 5, 6, *film.tokens(), 7, 8, 9], [BOS, *film.tokens(), 4]])
    inputs |= kinds(name, inputs["input_ids"])
    pictures = film.pictures.make(2 * film.given, torch.Generator().manual_seed(3))
    runs, video = [], ("video", film.n * FRAMES // film.parts, KEEP)
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        _, logits = generated(model, {**inputs, **film.inputs(pictures, 2)})
        found = [(i.row, i.modality, i.n_before, i.n_after) for i in handle.last.images]
        assert found == [(row, *video) for row in range(2) for _ in range(film.parts)]
        for row in range(2):
            real = inputs["attention_mask"][row].bool()
            alone = {key: value[row : row + 1, real] for key, value in inputs.items()}
            alone |= film.inputs(film.pictures.cut(pictures, row * film.given, (row + 1) * film.given))
            prefill = model(**alone).logits[0]
            out, got = generated(model, alone)
            keep = kept_slots(alone["input_ids"][0], handle.last.images)
            runs.append((alone, prefill, out.sequences[0, len(keep) :], got[0], keep))
            found = [(i.row, i.modality, i.n_before, i.n_after) for i in handle.last.images]
            assert found == [(0, *video)] * film.parts
    for row, (alone, prefill, tokens, got, keep) in enumerate(runs):
        want, n = stock_logits(model, alone, keep, tokens), int(keep.sum())
        torch.testing.assert_close(prefill[keep], want[:n], **TOLERANCE)
        torch.testing.assert_close(got, want[n - 1 : -1], **TOLERANCE)
        torch.testing.assert_close(logits[row], got, **TOLERANCE)


def test_every_family_whose_adapter_claims_videos_is_tested():
    models = {name: families.model(name) for name in (*families.CLASSES, *STRUCTURAL)}
    find = tokenprune.default_registry().adapter_for
    claims = {name for name, model in models.items() if "video" in find(model)(model).modalities}
    assert claims == {name for name in (*VIDEOS, *ELSEWHERE, *UNTESTED) if name in models}
