# SPDX-License-Identifier: Apache-2.0
"""Which methods and adapters can trim the caches of the layers before a cut (`Method.trim_early_cache`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import IncompatibleError, OptionError
from .methods import Method

REMEDY = "choose a method that cuts in the decoder, or pass trim_early_cache=False"


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
            "before the cut, to which trim_early_cache=True would trim the caches; choose a method that only "
            "drops tokens, or pass trim_early_cache=False"
        )


def check_trimmed(methods: Sequence[Method], requested: Any, adapter: str, can_trim: bool) -> None:
    """Raise if caches are to be trimmed, and no cut does so or an adapter cannot.

    Parameters
    ----------
    methods
        Those of all cuts.
    requested
        The argument `trim_early_cache` of `apply`; None leaves the choice to the methods.
    adapter, can_trim
        The adapter's name, and whether it can.

    Raises
    ------
    OptionError
        When `requested` is neither None nor a bool.
    IncompatibleError
        When no cut is made in the decoder, or the adapter cannot trim caches.
    """
    if requested is not None and not isinstance(requested, bool):
        raise OptionError(f"trim_early_cache must be True or False, got {requested!r}")
    trims = any(method.trim_early_cache for method in methods)
    if requested and not trims:
        cuts = ", ".join(f"{method.name!r} ({method.stage})" for method in methods)
        raise IncompatibleError(
            f"trim_early_cache=True has nothing to trim: the cuts are {cuts}, none of them in the decoder, "
            f"so no cache holds what they drop; {REMEDY}"
        )
    if trims and not can_trim:
        raise IncompatibleError(
            f"the adapter {adapter!r} cannot remove tokens from the caches of the layers before a cut; pass "
            "trim_early_cache=False"
        )
