# SPDX-License-Identifier: Apache-2.0
"""Vocabulary of the embedded model; a word's id is its index in `VOCABULARY`."""

from __future__ import annotations

from benchmarks.scenes.palette import COLOR_NAMES, PLURALS, SHAPE_NAMES
from benchmarks.scenes.questions import COLUMN_WORDS, ROW_WORDS

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, IMAGE)
ROLES = (USER, ASSISTANT)
CONTINUATION = "##"  # a digit that continues a number: 47 is "4", "##7"

_QUESTION_WORDS = (
    "? what color shape is the object objects there a how many where "
    "number on light dark sign written first last digit"
).split()
_DIGITS = tuple("0123456789")

VOCABULARY = (
    *SPECIAL,
    *ROLES,
    *_QUESTION_WORDS,
    "yes",
    "no",
    *_DIGITS,
    *(CONTINUATION + digit for digit in _DIGITS),
    *COLOR_NAMES,
    *SHAPE_NAMES,
    *PLURALS.values(),
    *ROW_WORDS,
    *COLUMN_WORDS,
)
WORD_ID = {word: i for i, word in enumerate(VOCABULARY)}


def encode_words(text: str) -> list[int]:
    """Return the ids of the words of a question or answer, as encoded by the model's tokenizer files."""
    ids = []
    for word in text.split():
        pieces = [word[0], *(CONTINUATION + digit for digit in word[1:])] if word.isdigit() else [word]
        ids += [WORD_ID[piece] for piece in pieces]
    return ids
