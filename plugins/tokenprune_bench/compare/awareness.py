# SPDX-License-Identifier: Apache-2.0
"""Which methods saw the question: those that ask for a signal made of the text after the image.

The picture stands before the question and attention is causal: the image's own rows know nothing of it.
"""

from __future__ import annotations

import tokenprune
from tokenprune_bench.evaluation import BASELINES

OF_THE_QUESTION = frozenset(
    {"text_embeds", "attention_rows", "text_keys", "text_hidden", "text_position_ids", "clip_text_embeds"}
)


def saw_the_question(method: str | None) -> bool:
    """Whether what a method keeps depends on what is asked."""
    if method is None or method in BASELINES:
        return False
    return bool(tokenprune.method(method).needs & OF_THE_QUESTION)
