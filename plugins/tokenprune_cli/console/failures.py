# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear sentence on stderr and exit code 2, never a traceback.

Any function of the command line may raise `BadInputError` about what the user gave.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from tokenprune_adapters.loading import first_line as first_line

BAD_INPUT = 2
CLIP_SIGNAL = "clip_text_embeds"
BRING_CLIP = (
    "; this method needs a CLIP that you bring from Python: tokenprune.method('cdpruner', clip=...) with "
    "tokenprune_adapters.clip_space.ClipSpace, see docs/methods/cdpruner.md"
)


class BadInputError(Exception):
    """Something the user gave cannot be used; the message says what, why and what to do."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what is raised on purpose into a sentence on stderr; any other exception is a bug and stays."""
    from tokenprune import TokenPruneError

    try:
        yield
    except (TokenPruneError, BadInputError) as error:
        typer.echo(f"tokenprune: {_with_advice(str(error))}", err=True)
        raise typer.Exit(BAD_INPUT) from None


def _with_advice(message: str) -> str:
    """Add what the command line alone cannot do about it."""
    return message.rstrip(".") + BRING_CLIP if CLIP_SIGNAL in message else message


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the progress bars, log lines and warnings of transformers and the hub out of the output."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
