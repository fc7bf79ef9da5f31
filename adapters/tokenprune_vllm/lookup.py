# SPDX-License-Identifier: Apache-2.0
"""Look up names in vLLM, and wrap its methods with ours. No name of vLLM is known here.

A name is written `module:Class.attribute(parameter, parameter)`; the parameters are those we rely on.
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
_FIELD = object()  # stands for a field that only instances have


def parts_of(name: str) -> tuple[str, list[str], list[str]]:
    """Split a name into module, nested attributes and parameters."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    module, attributes, parameters = match.groups(default="")
    return module, attributes.split("."), re.findall(r"\w+", parameters)


def refusal(name: str, purpose: str) -> EngineRefusedError:
    """Error for a name that this version of vLLM does not have."""
    import vllm

    purpose = purpose.replace("_", " ")
    return EngineRefusedError(
        f"tokenprune: vLLM {vllm.__version__} has no {name}, which is needed for: {purpose}. "
        f'Tested was {RANGE}; install one of these, or start without "tokenprune" in --hf-overrides'
    )


def find(name: str, purpose: str) -> Any:
    """Import the object of a name.

    Raises
    ------
    EngineRefusedError
        If the module, one of the attributes or one of the parameters does not exist.
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
        known = inspect.signature(owner).parameters
        for parameter in parameters:
            if parameter not in known:
                raise refusal(f"parameter {parameter} of {module}:{'.'.join(attributes)}", purpose)
    return owner


def _member(owner: Any, name: str) -> Any:
    """An attribute, or `_FIELD` for what a class declares its instances to have; None: neither."""
    attribute = getattr(owner, name, None)
    if attribute is not None or not isinstance(owner, type):
        return attribute
    declared = any(name in inspect.get_annotations(base) for base in owner.__mro__)
    return _FIELD if declared or hasattr(owner, name) else None


class View:
    """Gives access to an object of vLLM under our names; attributes are read on demand.

    Parameters
    ----------
    thing
        The object.
    names
        Our name -> path of vLLM's. Numbers in a path are indices, mappings are asked for keys; a "?" stands
        behind what may be None, and then all of it is.
    what
        The object, as errors call it.
    """

    def __init__(self, thing: Any, names: Mapping[str, str], what: str) -> None:
        self.thing, self._names, self._what = thing, names, what

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no name for {name!r} of {self._what}")
        thing, steps = self.thing, self._names[name].split(".")
        for n, step in enumerate(steps, 1):
            try:
                thing = _step(thing, step.rstrip("?"))
            except (AttributeError, LookupError) as error:
                path = ".".join(steps[:n]).replace("?", "")
                raise refusal(f"{path} in {self._what}", name) from error
            if thing is None and step.endswith("?"):
                return None
        return thing

    def check(self) -> View:
        """Check that all names exist."""
        for name in self._names:
            getattr(self, name)
        return self


def _step(thing: Any, name: str) -> Any:
    if name.lstrip("-").isdigit():
        return thing[int(name)]
    return thing[name] if isinstance(thing, Mapping) else getattr(thing, name)


def joined(name: str, ours: type, stock: type, around: Mapping[str, str], uses: Mapping[str, str]) -> Any:
    """Derive a class from ours and vLLM's: our methods run where vLLM calls its own.

    What vLLM does not have is left out; `find` is there to refuse that.

    Parameters
    ----------
    around
        Our method -> vLLM's, with the parameters that ours is given. Before them ours gets a function, which
        runs vLLM's method: with parameters in place of those given, or as it was called. Where `pruning` of
        an object is None, ours are not asked.
    uses
        The same for methods of vLLM that ours call, by our names.
    """
    body: dict[str, Any] = {"__module__": ours.__module__, "__doc__": ours.__doc__}
    for own, theirs in around.items():
        _, (method,), parameters = parts_of(theirs)
        if hasattr(stock, method):
            body[method] = _around(getattr(stock, method), own, parameters)
    for own, theirs in uses.items():
        _, (method,), _ = parts_of(theirs)
        if hasattr(stock, method):
            body[own] = getattr(stock, method)
    return type(name, (ours, stock), body)


def _around(original: Callable[..., Any], own: str, parameters: list[str]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.pruning is None:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()

        def stock(*changed: Any) -> Any:
            bound.arguments.update(zip(parameters, changed, strict=False))
            return original(*bound.args, **bound.kwargs)

        return getattr(self, own)(stock, *(bound.arguments[name] for name in parameters))

    return method
