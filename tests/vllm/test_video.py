# SPDX-License-Identifier: Apache-2.0
"""Videos of Qwen2.5-VL, Qwen3-VL and InternVL, alone and beside a picture."""

import numpy as np
import pytest
from checkpoints import IMAGE_TEXT, picture
from engines import Reference, ask, assert_same, engine

VIDEO_TEXT = IMAGE_TEXT["qwen"].replace("image", "video")


def video(seed, n_frames=4, width=64, height=80):
    """Frames (t, h, w, 3) and what vLLM wants to know about them: two frames a second, all of them taken."""
    frames = np.stack([np.asarray(picture(seed + i, width, height)) for i in range(n_frames)])
    about = {"fps": 2.0, "duration": n_frames / 2, "total_num_frames": n_frames, "video_backend": "opencv"}
    return frames, {**about, "frames_indices": list(range(n_frames)), "do_sample_frames": False}


def asked(with_picture):
    text = f"w5 {VIDEO_TEXT} w3 w14" + (f" {IMAGE_TEXT['qwen']} w9" if with_picture else "")
    data = {"video": [video(3)]} | ({"image": [picture(1, 64, 48)]} if with_picture else {})
    return {"prompt": text, "multi_modal_data": data}


@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "visionzip-received"])
def test_a_pruned_video_is_answered_as_transformers_does(method, checkpoint):
    pruning = {"method": method, "keep": 40}
    reference = Reference(checkpoint("qwen"))
    with engine(checkpoint("qwen"), pruning) as llm:
        found = ask(llm, [asked(False), asked(True)])
    whole = [2 * 10 * 8, 2 * 10 * 8 + 6 * 8]
    for one, with_picture, n in zip(found, (False, True), whole, strict=True):
        expected = reference.answer(asked(with_picture), pruning)
        assert_same(one, expected)
        unpruned = reference.answer(asked(with_picture))
        assert unpruned.n_prompt - one.n_prompt == n - 40 * (1 + with_picture)


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "vispruner-received", "stride"])
def test_a_video_with_time_stamps_is_answered_as_transformers_does(method, checkpoint):
    """Which frames the kept rows are from depends on the pixels; repeated, the prefix is cached."""
    pruning = {"method": method, "keep": 40}
    reference = Reference(checkpoint("qwen3_vl"))
    with engine(checkpoint("qwen3_vl"), pruning) as llm:
        found = ask(llm, [asked(False), asked(True)])
        again = ask(llm, [asked(False), asked(True)])
    for one, repeated, with_picture in zip(found, again, (False, True), strict=True):
        assert_same(one, reference.answer(asked(with_picture), pruning))
        assert_same(repeated, one)
        unpruned = reference.answer(asked(with_picture))
        assert unpruned.n_prompt - one.n_prompt == 2 * 10 * 8 - 40 + with_picture * (6 * 8 - 40)
    assert all(one.n_cached for one in again)


@pytest.mark.nightly
def test_a_prefill_of_a_video_in_pieces_changes_nothing(checkpoint):
    pruning = {"method": "zoo-exact", "keep_ratio": 0.5}
    reference = Reference(checkpoint("qwen3_vl"))
    with engine(checkpoint("qwen3_vl"), pruning, max_num_batched_tokens=24) as llm:
        (found,) = ask(llm, [asked(True)])
    assert_same(found, reference.answer(asked(True), pruning))


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_each_frame_of_internvl_has_a_budget(method, checkpoint):
    pruning = {"method": method, "keep": 10}
    frames, _ = video(3, n_frames=3)
    alone = {"prompt": "w5 <video> w3 w14", "multi_modal_data": {"video": [frames]}}
    beside = {
        "prompt": f"w5 <video> w3 w14 {IMAGE_TEXT['internvl']} w9",
        "multi_modal_data": {"video": [frames], "image": [picture(1, 160, 64)]},
    }
    reference = Reference(checkpoint("internvl"))
    with engine(checkpoint("internvl"), pruning) as llm:
        found = ask(llm, [alone, beside])
    for one, asked_for, n_crops in zip(found, (alone, beside), (3, 6), strict=True):
        expected = reference.answer(asked_for, pruning)
        assert_same(one, expected)
        assert reference.answer(asked_for).n_prompt - one.n_prompt == n_crops * (36 - 10)
