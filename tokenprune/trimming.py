# SPDX-License-Identifier: Apache-2.0
"""Which methods and adapters can trim the caches of the layers before a cut (`Method.trim_early_cache`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import IncompatibleError, OptionError

if TYPE_CHECKING:
    from .adapter import ModelAdapter
    from .cut import Cut
    from .methods import Method

REMEDY = "choose a method that cuts in the decoder (fastv, pyramiddrop ...), or pass trim_early_cache=False"


def check_trimming(method: Method) -> None:
    """Raise if a method is to trim the caches of earlier layers, and cannot.

    Raises
    ------
    IncompatibleError
        For a method at another stage than the decoder, and for one with a reducer.
    """
    if not method.trim_early_cache:
        return
    if method.stage != "decoder":
        raise IncompatibleError(
            f"trim_early_cache=True has nothing to trim: method {method.name!r} cuts at the stage "
            f"{method.stage!r}, before all layers of the language model, so no cache holds what it drops; "
            f"{REMEDY}"
        )
    if method.reducer is not None:
        raise IncompatibleError(
            f"method {method.name!r} makes new rows, and there are no keys and values of them in the layers "
            "before the cut, to which trim_early_cache=True would trim the caches; pass trim_early_cache=False, "
            "or choose a method that only drops tokens"
        )


def check_trimmed(adapter: ModelAdapter, cuts: Sequence[Cut], requested: Any) -> None:
    """Raise if caches are to be trimmed, and no cut or not this adapter does so.

    Parameters
    ----------
    requested
        The argument `trim_early_cache` of `apply`; None leaves the choice to the methods.

    Raises
    ------
    OptionError
        When `requested` is neither None nor a bool.
    IncompatibleError
        When no cut is made in the decoder, or the adapter cannot trim caches.
    """
    if requested is not None and not isinstance(requested, bool):
        raise OptionError(f"trim_early_cache must be True or False, got {requested!r}")
    trims = any(cut.method.trim_early_cache for cut in cuts)
    if requested and not trims:
        names = ", ".join(f"{cut.method.name!r} ({cut.method.stage})" for cut in cuts)
        raise IncompatibleError(
            "trim_early_cache=True has nothing to trim: no cut is made in the decoder, so no cache holds "
            f"what is dropped by {names}; {REMEDY}"
        )
    if trims and not adapter.can_trim:
        raise IncompatibleError(
            f"the adapter {adapter.name!r} cannot remove tokens from the caches of the layers before a cut; "
            "pass trim_early_cache=False"
        )
