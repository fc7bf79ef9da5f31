# SPDX-License-Identifier: Apache-2.0
"""Look up objects of vLLM by name, and override its methods. The names themselves are in `stock.py`.

A name has the form `module:Class.attribute(parameter, parameter)`, with the parameters that we depend on.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import EngineRefusedError
from .versions import RANGE

_NAME = re.compile(r"(?:([\w.]+):)?([\w.]+)(?:\(([\w, ]*)\))?")
_FIELD = object()  # placeholder for a field that only instances have


def parts_of(name: str) -> tuple[str, list[str], list[str]]:
    """Split a name into the module, nested attributes and parameters."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    module, attributes, parameters = match.groups(default="")
    return module, attributes.split("."), re.findall(r"\w+", parameters)


def refusal(name: str, purpose: str) -> EngineRefusedError:
    """Return the error for a name that this version of vLLM does not have."""
    import vllm

    purpose = purpose.replace("_", " ")
    return EngineRefusedError(
        f"tokenprune: vLLM {vllm.__version__} has no {name}, which is needed for: {purpose}. "
        f"This release was tested with {RANGE}; install a tested version or a newer tokenprune, or start "
        'without "tokenprune" in --hf-overrides'
    )


def find(name: str, purpose: str) -> Any:
    """Import the object with this name.

    Raises
    ------
    EngineRefusedError
        If the module, an attribute or a parameter does not exist.
    """
    module, attributes, parameters = parts_of(name)
    try:
        owner: Any = importlib.import_module(module)
    except ImportError as error:
        raise refusal(module, purpose) from error
    for n, attribute in enumerate(attributes, 1):
        owner = _member(owner, attribute)
        if owner is None:
            raise refusal(f"{module}:{'.'.join(attributes[:n])}", purpose)
    if parameters:
        accepted = inspect.signature(owner).parameters
        for parameter in parameters:
            if parameter not in accepted:
                raise refusal(f"parameter {parameter} of {module}:{'.'.join(attributes)}", purpose)
    return owner


def _member(owner: Any, name: str) -> Any:
    """Return an attribute, `_FIELD` if the class only declares it for its instances, or None."""
    attribute = getattr(owner, name, None)
    if attribute is not None or not isinstance(owner, type):
        return attribute
    declared = any(name in inspect.get_annotations(base) for base in owner.__mro__)
    return _FIELD if declared or hasattr(owner, name) else None


class View:
    """View of an object of vLLM under our names; values are read on access.

    Parameters
    ----------
    wrapped
        The object.
    names
        Maps our names to paths in the object. A number in a path is an index, and steps into a mapping are
        keys. A "?" marks a step that may be None; the value is then None.
    description
        Description of the object for error messages.
    """

    def __init__(self, wrapped: Any, names: Mapping[str, str], description: str) -> None:
        self.wrapped, self.names, self._description = wrapped, names, description

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.names:
            raise AttributeError(f"{self._description} has no {name!r} among our names")
        value, steps = self.wrapped, self.names[name].split(".")
        for n, step in enumerate(steps, 1):
            try:
                value = _step(value, step.rstrip("?"))
            except (AttributeError, LookupError) as error:
                path = ".".join(steps[:n]).replace("?", "")
                raise refusal(f"{path} in {self._description}", name) from error
            if value is None and step.endswith("?"):
                return None
        return value

    def check(self) -> View:
        """Check that all names exist. Returns the view."""
        for name in self.names:
            getattr(self, name)
        return self


def _step(value: Any, name: str) -> Any:
    if name.lstrip("-").isdigit():
        return value[int(name)]
    return value[name] if isinstance(value, Mapping) else getattr(value, name)


def derive(name: str, ours: type, base: type, overrides: Mapping[str, str], uses: Mapping[str, str]) -> Any:
    """Derive a class from ours and vLLM's in which our methods override vLLM's.

    Methods that vLLM does not have are omitted; `find` raises an error for them.

    Parameters
    ----------
    overrides
        Maps our methods to vLLM's and the parameters that ours are called with. The first argument of ours is
        a function that calls vLLM's method, with the given values for these parameters or, without any, with
        the original ones. If an object's `pruning` is None, vLLM's method runs instead of ours.
    uses
        Maps our names to the methods of vLLM that our methods call.
    """
    body: dict[str, Any] = {"__module__": ours.__module__, "__doc__": ours.__doc__}
    for our_name, vllm_name in overrides.items():
        _, (method,), parameters = parts_of(vllm_name)
        if hasattr(base, method):
            body[method] = _overridden(getattr(base, method), our_name, parameters)
    for our_name, vllm_name in uses.items():
        _, (method,), _ = parts_of(vllm_name)
        if hasattr(base, method):
            body[our_name] = getattr(base, method)
    return type(name, (ours, base), body)


def _overridden(original: Callable[..., Any], our_name: str, parameters: list[str]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.pruning is None:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()

        def call_original(*values: Any) -> Any:
            bound.arguments.update(zip(parameters, values, strict=False))
            return original(*bound.args, **bound.kwargs)

        return getattr(self, our_name)(call_original, *(bound.arguments[name] for name in parameters))

    return method
