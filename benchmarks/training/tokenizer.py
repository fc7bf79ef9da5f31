# SPDX-License-Identifier: Apache-2.0
"""Create the tokenizer and processor that are stored with the weights."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from benchmarks.scenes.scene import IMAGE_SIDE, PATCH_SIDE
from benchmarks.scenes.vocabulary import (
    ASSISTANT,
    BOS,
    CONTINUATION,
    EOS,
    IMAGE,
    PAD,
    ROLES,
    SPECIAL,
    UNKNOWN,
    USER,
    WORD_ID,
)
from benchmarks.training.architecture import PIXEL_MEAN, PIXEL_STD

# The tokenizer adds `<s>`. Roles separate turns, and images keep their position in the message.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '" + USER + "' if message['role'] == 'user' else '" + ASSISTANT + "' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ ' " + IMAGE + "' if part['type'] == 'image' else ' ' + part['text'] }}"
    "{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else ' " + EOS + "' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Create the tokenizer: one token per word or digit; case and space before "?" are ignored."""
    tokenizer = Tokenizer(
        models.WordPiece(
            WORD_ID, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUATION, max_input_chars_per_word=40
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("colour", "color")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # Full stops, commas and exclamation marks are not in the vocabulary and are removed.
        [pre_tokenizers.Split(Regex("[.!,]"), "removed"), pre_tokenizers.Whitespace()]
    )
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION, cleanup=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, WORD_ID[BOS])]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    # Roles are not special tokens: decoded conversations keep them, as in LLaVA.
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ROLES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def make_processor() -> LlavaProcessor:
    """Create the processor, which resizes images to a square and expands `<image>` to visual tokens."""
    image_processor = CLIPImageProcessor(
        size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        do_center_crop=False,
        crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
