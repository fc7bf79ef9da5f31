# SPDX-License-Identifier: Apache-2.0
"""Invalid input: a sentence on stderr and exit code 2, without a traceback.

Any function of the command line may raise `BadInputError` for invalid input of the user.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from tokenprune_adapters.loading import first_line as first_line
from tokenprune_evaluation.errors import BadInputError as BadInputError

BAD_INPUT = 2
CLIP_SIGNAL = "clip_text_embeds"
CLIP_ADVICE = (
    "; this method needs a CLIP model: give its checkpoint to tokenprune run as --clip, or in Python "
    "tokenprune.method('cdpruner', clip=...) with tokenprune_adapters.clip_space.ClipSpace, see "
    "docs/methods/cdpruner.md"
)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print our own exceptions as a sentence on stderr; any other exception is a bug and passes."""
    from tokenprune import TokenPruneError

    try:
        yield
    except (TokenPruneError, BadInputError) as error:
        message = str(error)
        if CLIP_SIGNAL in message:
            message = message.rstrip(".") + CLIP_ADVICE
        typer.echo(f"tokenprune: {message}", err=True)
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress the progress bars, log messages and warnings of transformers and the hub."""
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
