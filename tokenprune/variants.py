# SPDX-License-Identifier: Apache-2.0
"""Variants of methods, for models that a method itself does not run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cut import Cut
from .errors import IncompatibleError, OptionError, PluginConflictError
from .methods import Method
from .registry import default_registry

NAMED, AUTO = "named", "auto"


def check_variant(variant: Any) -> None:
    """Raise for a value of `variant` other than `"named"` and `"auto"`."""
    if variant not in (NAMED, AUTO):
        raise OptionError(f"variant must be {NAMED!r} or {AUTO!r}, got {variant!r}")


def cut_of_variant(requested: Method, variant: str, cut_of: Callable[[Method], Cut]) -> Cut:
    """Return the cut of a method; if the model refuses it, that of a variant, with `"auto"`.

    Parameters
    ----------
    requested
        The method. One with changed options has no variants, which may lack these options.
    cut_of
        Makes the cut of a method, and raises IncompatibleError if the model cannot be pruned with it.

    Raises
    ------
    IncompatibleError
        If the model refuses the method; the message names a variant that runs, if there is one.
    """
    try:
        return cut_of(requested)
    except IncompatibleError as error:
        for other in _variants(requested):
            try:
                cut = cut_of(other)
            except IncompatibleError:
                continue
            if variant == AUTO:
                return cut
            raise IncompatibleError(
                f"{error}. Its variant {other.name!r} runs on this model: give method={other.name!r}, or "
                f"variant={AUTO!r}"
            ) from error
        raise


def _variants(method: Method) -> list[Method]:
    """Return the installed variants of a method; none if its options were changed."""
    registry, by_name = default_registry(), dict[str, Method]()
    for name in registry.names("method"):
        try:
            by_name[name] = registry.find("method", name).resolved()
        except PluginConflictError:  # two plugins deliver a method of this name
            continue
    variants = [other for other in by_name.values() if other.variant_of == method.name]
    return variants if variants and by_name.get(method.name) == method else []
