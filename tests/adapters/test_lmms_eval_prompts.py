# SPDX-License-Identifier: Apache-2.0
"""Conversations become the inputs that the checkpoint's processor makes of each alone, padded on the left."""

import pytest
import tiny_processors as tp
import torch
from PIL import Image
from tiny_models import IMAGE, PAD
from tokenprune_lmms_eval.prompts import Prompts, has_images, pad_to_square

import tokenprune


def turn(*parts):
    """A user's turn of words and pictures."""
    kinds = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts
    ]
    return [{"role": "user", "content": kinds}]


ONE = turn(tp.noise(40, 60), "what is in this picture ?")
TWO = turn(tp.noise(64, 40), "and", tp.noise(32, 32, seed=1), "which ?")
MAKERS = pytest.mark.parametrize("make", [tp.llava, tp.llava_next, tp.qwen], ids=lambda make: make.__name__)


@MAKERS
def test_a_batch_is_its_questions_alone_with_padding_before(make):
    prompts = Prompts(make())
    together = prompts.inputs([ONE, TWO])
    for row, alone in enumerate([prompts.inputs([ONE]), prompts.inputs([TWO])]):
        real = together["attention_mask"][row].bool()
        assert together["input_ids"][row, real].tolist() == alone["input_ids"][0].tolist()
        assert together["input_ids"][row, ~real].eq(PAD).all()
        assert together["attention_mask"][row, -1] == 1
    assert (together["attention_mask"] == 0).any()


@MAKERS
def test_text_alone_has_no_pixels(make):
    inputs = Prompts(make()).inputs([turn("what is a video ?"), turn("which ?")])
    assert "pixel_values" not in inputs
    assert not (inputs["input_ids"] == IMAGE).any()


def test_what_there_is_to_see():
    assert has_images(ONE) and not has_images(turn("what ?"))


def test_a_system_prompt_stands_first():
    prompts = Prompts(tp.llava(), system="the video")
    prompts.check()
    tokenizer = prompts.processor.tokenizer
    said = tokenizer.decode(prompts.inputs([ONE])["input_ids"][0])
    assert said.index("the video") < said.index("user")


def test_a_template_without_a_place_for_it_is_noticed():
    processor = tp.llava()
    processor.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    with pytest.raises(tokenprune.InputError, match="does not support a system prompt"):
        Prompts(processor, system="the video").check()
    processor.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(tokenprune.InputError, match="does not accept a system prompt: no system turn"):
        Prompts(processor, system="the video").check()


def test_a_wide_picture_stands_in_the_middle_of_its_square():
    square = pad_to_square(Image.new("RGB", (4, 2), (9, 9, 9)), (1, 2, 3))
    assert square.size == (4, 4)
    columns = [[square.getpixel((x, y)) for y in range(4)] for x in (0, 3)]
    assert columns == [[(1, 2, 3), (9, 9, 9), (9, 9, 9), (1, 2, 3)]] * 2
    assert pad_to_square(tp.noise(5, 5), (0, 0, 0)).tobytes() == tp.noise(5, 5).tobytes()


def test_squares_are_padded_with_the_processors_mean():
    processor = tp.llava()
    mean = [int(255 * value) for value in processor.image_processor.image_mean]
    by_hand = turn(pad_to_square(tp.noise(40, 60), mean), "what is in this picture ?")
    found = Prompts(processor, square=True).inputs([ONE])["pixel_values"]
    assert torch.equal(found, Prompts(processor).inputs([by_hand])["pixel_values"])
    assert not torch.equal(found, Prompts(processor).inputs([ONE])["pixel_values"])


def test_a_bound_on_pixels_bounds_the_tokens():
    big = turn(tp.noise(64, 64), "what ?")
    count = [
        int((Prompts(tp.qwen(), pixels=bound).inputs([big])["input_ids"] == IMAGE).sum())
        for bound in ((None, None), (None, 256), (4096, 4096))
    ]
    assert count == [1024 // 64, 256 // 64, 4096 // 64]


def test_bounds_are_for_processors_that_keep_a_pictures_shape():
    with pytest.raises(tokenprune.InputError, match="resizes all images to one size"):
        Prompts(tp.llava(), pixels=(None, 256)).check()
    Prompts(tp.qwen(), pixels=(None, 256)).check()
