# SPDX-License-Identifier: Apache-2.0
"""Errors that stop an engine from starting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenprune import TokenPruneError


class EngineRefusedError(TokenPruneError, RuntimeError):
    """The engine cannot be started with this configuration.

    Not a ValueError: vLLM would take one to mean that the model accepts no images, and start without them.
    """


@contextmanager
def refusing() -> Iterator[None]:
    """Convert tokenprune's errors to `EngineRefusedError`."""
    try:
        yield
    except EngineRefusedError:
        raise
    except TokenPruneError as error:
        raise EngineRefusedError(f"tokenprune: {error}") from error
