# SPDX-License-Identifier: Apache-2.0
"""What a budget means for each method: as its authors ran it, or by the same rules for all methods."""

from __future__ import annotations

from typing import Any

from tokenprune_evaluation.named_methods import method_named
from tokenprune_evaluation.settings import BASELINES, Setting

import tokenprune

PAPER, MATCHED = "paper", "matched"
PROTOCOLS = (PAPER, MATCHED)
DEFAULTS = "defaults"  # what `apply` does without options; the demo's protocol
FROM_TEXT_ROWS = "attention_rows"  # the signal: attention from rows of the text to the image
EXPLANATIONS = {
    PAPER: "Every method as its authors ran it: what a budget counts, what it is shared over, newline tokens "
    "and positions are the method's own. Methods that cut inside the language model see more rows at the "
    "same nominal budget; look at the rows, not at the budget.",
    MATCHED: "Every method under the same rules: a budget is the mean number of visual rows entering a layer "
    "of the language model, over all layers; it is shared over the whole image, newline tokens compete like "
    "any other, and positions follow the model's default. Methods that see all tokens in their first layers "
    "cannot reach small budgets.",
}


def setting(protocol: str, method: str, keep: int, model: Any) -> Setting:
    """Return the setting of a method at a budget on a model, under a protocol.

    The setting's options are exactly those that make a difference: equal settings of both protocols give the
    same answers and need to be run only once.

    Parameters
    ----------
    protocol
        `"paper"`, `"matched"` or `"defaults"`, which has no options.
    method
        Name of a method, with options, or of a baseline, which has none.
    keep
        The budget.
    model
        The unpruned model.
    """
    if method in BASELINES or protocol == DEFAULTS:
        return Setting(method, keep)
    published = method_named(method)
    allowed = tokenprune.default_registry().adapter_for(model)(model).positions
    positions = published.positions
    if protocol == MATCHED or positions not in allowed:
        positions = allowed[0]
    options = {"positions": str(positions)}
    if published.stage == "decoder":
        options["budget"] = "average" if protocol == MATCHED else "paper"
    if getattr(model.config, "image_grid_pinpoints", None) is not None:  # the model cuts pictures into tiles
        options["scope"] = "image" if protocol == MATCHED else published.scope
        options["newlines"] = "compete" if protocol == MATCHED else published.newlines
    return Setting(method, keep, tuple(sorted(options.items())))


def is_of_the_question(signal: str) -> bool:
    """Return whether a signal depends on the text after the image, by its name.

    The picture comes before the question and attention is causal: the image's own rows do not depend on it.
    """
    return "text" in signal.split("_") or signal == FROM_TEXT_ROWS


def saw_the_question(method: str | None) -> bool:
    """Return whether the tokens that a method keeps depend on the question."""
    if method is None or method in BASELINES:
        return False
    return any(map(is_of_the_question, method_named(method).needs))
