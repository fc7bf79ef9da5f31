# SPDX-License-Identifier: Apache-2.0
"""Variants of methods, for models that a method itself does not run on."""

from __future__ import annotations

from collections.abc import Callable

from .cut import Cut
from .errors import IncompatibleError, PluginConflictError
from .methods import Method
from .registry import default_registry

NAMED, AUTO = "named", "auto"


def cut_of_variant(requested: Method, variant: str, cut_of: Callable[[Method], Cut]) -> Cut:
    """Return the cut of a method, or with `"auto"` that of its variant if the model refuses the method.

    `cut_of` makes the cut of a method, and raises IncompatibleError if the model cannot be pruned with it;
    the error that is raised here names a variant that runs.
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
    """Return the installed variants of a method; none if its options were changed, which they may lack."""
    registry, methods = default_registry(), dict[str, Method]()
    for name in registry.names("method"):
        try:
            methods[name] = registry.find("method", name).resolved()
        except PluginConflictError:  # two plugins deliver a method of this name
            continue
    variants = [other for other in methods.values() if other.variant_of == method.name]
    return variants if variants and methods.get(method.name) == method else []
