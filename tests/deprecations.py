# SPDX-License-Identifier: Apache-2.0
"""Deprecations that transformers logs instead of warning: an error where our own code called for them."""

import logging
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
BETWEEN = {"contextlib", "functools", "logging", "torch", "transformers"}  # pass a call on to transformers
PASS_ON = {
    f"tokenprune_adapters.transformers.{name}" for name in ("continuous", "drafts", "interposed", "refusals")
}
THEIR_OWN = {  # ask in a deprecated way
    "transformers.generation.candidate_generator",
    "transformers.models.janus.modeling_janus",
}


def caller():
    """Module name and file of the nearest frame that does not only pass the call on."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name in THEIR_OWN or name.split(".")[0] not in BETWEEN | {__name__} and name not in PASS_ON:
            return name, frame.f_code.co_filename
        frame = frame.f_back
    return "", ""


def is_ours(module, file):
    """Whether a frame is of our packages, our tests or our documentation."""
    path = Path(file)
    in_checkout = path.is_relative_to(CHECKOUT) and "site-packages" not in path.parts
    return module.startswith("tokenprune") or in_checkout


class RaiseDeprecations(logging.Handler):
    """Raises what a logger says about something deprecated that our own code asked for."""

    def emit(self, record):
        message = record.getMessage()
        if "deprecat" not in message.lower():
            return
        module, file = caller()
        if is_ours(module, file):
            raise AssertionError(f"{module} calls for something deprecated: {message}")


def forget_what_was_said():
    """Let transformers say again what it says once in a process."""
    said = getattr(logging.Logger, "warning_once", None)  # set by transformers, when it is imported
    if hasattr(said, "cache_clear"):
        said.cache_clear()
