# SPDX-License-Identifier: Apache-2.0
"""Stock processors for the tiny models, built offline: real resizing, 99 words, a chat template."""

import numpy as np
from PIL import Image
from tiny_models import BOS, EOS, IMAGE, PAD, VIDEO
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

WORDS = "user assistant : ? what is in this picture video and the one before".split()
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE {% elif part['type'] == 'video' %}VIDEO "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(image, video, start, end):
    """A word is a token; special ones have the tiny models' ids."""
    special = {PAD: "<pad>", BOS: "<s>", IMAGE: image, VIDEO: video, 92: start, 93: end, EOS: "</s>"}
    words = iter([*WORDS, *(f"w{i}" for i in range(99))])
    vocabulary = {special.get(number) or next(words): number for number in range(99)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    made.add_special_tokens(list(special.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": image, "video_token": video},
        padding_side="left",
    )


def _of_llava(processor, images, side, **more):
    square = {"height": side, "width": side}
    return processor(
        images(size={"shortest_edge": side}, crop_size=square, **more),
        tokenizer("<image>", "<video>", "<start>", "<end>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )


def llava(side=32):
    return _of_llava(LlavaProcessor, CLIPImageProcessor, side)


def llava_next(side=32):
    grid = [[side * h, side * w] for h, w in ((1, 2), (2, 1), (2, 2))]  # as in tiny_models
    return _of_llava(LlavaNextProcessor, LlavaNextImageProcessor, side, image_grid_pinpoints=grid)


def qwen(most=1024):
    """Pictures of 64 to `most` pixels in patches of four pixels, tokens of eight."""
    words = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    settings = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    settings["size"] = {"shortest_edge": 64, "longest_edge": most}
    template = TEMPLATE
    for name, word in (("IMAGE", words[0]), ("VIDEO", words[1])):
        template = template.replace(name, words[2] + word + words[3])
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**settings),
        tokenizer(*words),
        Qwen2VLVideoProcessor(**settings, cap_pixels_per_frame=False),
        chat_template=template,
    )


def noise(*shape, seed=0):
    """Pixels (..., H, W, 3): of a video, or of a picture as PIL has it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Image.fromarray(pixels) if len(shape) == 2 else pixels
