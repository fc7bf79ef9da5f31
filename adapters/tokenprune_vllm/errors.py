# SPDX-License-Identifier: Apache-2.0
"""Refusals at the start of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenprune import TokenPruneError


class EngineRefusedError(TokenPruneError, RuntimeError):
    """The engine cannot be started with this configuration.

    No ValueError: vLLM takes one at this place for a model without pictures and goes on without them.
    """


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what tokenprune refuses into a refusal of the engine."""
    try:
        yield
    except EngineRefusedError:
        raise
    except TokenPruneError as error:
        raise EngineRefusedError(f"tokenprune: {error}") from error
