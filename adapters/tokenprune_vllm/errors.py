# SPDX-License-Identifier: Apache-2.0
"""Errors that stop an engine from starting, or refuse a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenprune import BudgetError, IncompatibleError, InputError, TokenPruneError


class EngineRefusedError(TokenPruneError, RuntimeError):
    """The engine cannot be started with this configuration.

    Not a ValueError: vLLM would take one to mean that the model accepts no images, and start without them.
    """


class ItemSizeError(BudgetError):
    """An image or video of a request has too many tokens before pruning."""


class MisplacedError(BudgetError):
    """A request has its budget in a place where it would be ignored."""


def reason(error: BudgetError | IncompatibleError | InputError) -> str:
    """Return the reason for which a request is refused, as it is counted."""
    if isinstance(error, (IncompatibleError, InputError)):
        return "unknown_item"
    if isinstance(error, ItemSizeError):
        return "item_size"
    return "misplaced" if isinstance(error, MisplacedError) else "budget"


@contextmanager
def refusing() -> Iterator[None]:
    """Convert tokenprune's errors to `EngineRefusedError`."""
    try:
        yield
    except EngineRefusedError:
        raise
    except TokenPruneError as error:
        raise EngineRefusedError(f"tokenprune: {error}") from error
