# SPDX-License-Identifier: Apache-2.0
"""Which methods saw the question: those that ask for a signal made of the text after the image.

The picture stands before the question and attention is causal: the image's own rows know nothing of it.
"""

from __future__ import annotations

import tokenprune
from tokenprune_cli.evaluation import BASELINES

FROM_TEXT_ROWS = "attention_rows"  # attention from rows of the text to the image


def is_of_the_question(signal: str) -> bool:
    """Whether a signal is made of the text after the image: by `text` in its name, or as its attention."""
    return "text" in signal.split("_") or signal == FROM_TEXT_ROWS


def saw_the_question(method: str | None) -> bool:
    """Whether what a method keeps depends on what is asked."""
    if method is None or method in BASELINES:
        return False
    return any(map(is_of_the_question, tokenprune.method(method).needs))
