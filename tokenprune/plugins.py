# SPDX-License-Identifier: Apache-2.0
"""Discover and load plugins: entry points of the group ``tokenprune``, built-in and third-party alike.

pluggy by itself skips a second entry point of the same name, accepts misspelt hooks, and fails for all
plugins if one cannot be imported. Here each plugin is loaded separately, under a key that contains its
distribution, and its problem is recorded instead of raised.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any

import pluggy

from . import hookspecs
from .adapter import ModelAdapter
from .methods import Method
from .strategy import Reducer, Scorer, Selector

GROUP = "tokenprune"
DISABLE_VARIABLE = "TOKENPRUNE_DISABLE_PLUGINS"
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("tokenprune_"))
# base class of what each hook returns, and whether it returns classes or objects
EXPECTED: dict[str, tuple[type, bool]] = {
    "tokenprune_scorers": (Scorer, True),
    "tokenprune_selectors": (Selector, True),
    "tokenprune_reducers": (Reducer, True),
    "tokenprune_methods": (Method, False),
    "tokenprune_adapters": (ModelAdapter, True),
}


@dataclass
class Plugin:
    """An entry point: its origin, the hooks it implements, and its problem, if any."""

    name: str
    module: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    problem: str | None = None
    disabled: bool = False
    delivers: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The plugin's name and origin, for messages."""
        return f"plugin {self.name!r} ({self.module}) of distribution {self.distribution} {self.version}"

    def fail(self, what: str, remedy: str) -> None:
        """Record a problem and its remedy, and discard what the plugin delivers."""
        self.problem = f"{self.origin} {what}. {remedy}"
        self.delivers = {}


def discover(candidates: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """Load every plugin and collect what it delivers.

    Parameters
    ----------
    candidates
        Entry points to load instead of the installed ones (for tests and tools).
    """
    points = list(entry_points(group=GROUP) if candidates is None else candidates)
    points.sort(key=lambda point: (_dist(point)[0] != "tokenprune-vlm", _dist(point), point.name))
    disabled = {name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip()}
    return [_load(point, disabled) for point in points]


def _dist(point: EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return ("unknown", "?") if dist is None else (dist.name, dist.version)


def _load(point: EntryPoint, disabled: set[str]) -> Plugin:
    name, version = _dist(point)
    plugin = Plugin(point.name, point.value, name, version)
    if disabled & {point.name, name}:
        plugin.disabled = True
        return plugin
    remedy = f"Reinstall or update {name}, or disable it with {DISABLE_VARIABLE}={point.name}"
    with _ProblemRecorded(plugin, "could not be imported", remedy):
        module = point.load()
    if plugin.problem is None:
        with _ProblemRecorded(plugin, "could not be inspected", remedy):  # metaclasses may raise anything
            _collect_hooks(plugin, module)
    return plugin


class _ProblemRecorded:
    """Records any error of a plugin's code in the block as its problem; KeyboardInterrupt passes."""

    def __init__(self, plugin: Plugin, what: str, remedy: str) -> None:
        self.plugin, self.what, self.remedy = plugin, what, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, KeyboardInterrupt):
            return False
        self.plugin.fail(f"{self.what}: {_describe(error)}", self.remedy)
        return True


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # `__str__` is third-party code as well
        return type(error).__name__


def _collect_hooks(plugin: Plugin, module: Any) -> None:
    """Collect what the hooks of a module return."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=f"{plugin.distribution}:{plugin.name}")
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        plugin.fail(
            f"has a hook that does not fit: {_first_line(error)}",
            f"The hooks are {', '.join(HOOKS)}, each without arguments; correct the name in {plugin.module}",
        )
        return
    for hook in HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            _collect(plugin, hook, implementation.function)
    if not plugin.hooks and plugin.problem is None:
        plugin.fail(
            "implements no hook",
            f"Mark a function named {HOOKS[0]} (or another of {', '.join(HOOKS)}) with @tokenprune.hookimpl",
        )


def _collect(plugin: Plugin, hook: str, implementation: Any) -> None:
    if plugin.problem is not None:
        return
    plugin.hooks += (hook,)
    delivered: list[Any] | None = None
    with _ProblemRecorded(plugin, f"failed in {hook}", "Report this to its authors"):
        delivered = list(implementation())
    if delivered is None:
        return
    base, is_class = EXPECTED[hook]
    for thing in delivered:
        is_valid = isinstance(thing, base)
        if is_class:
            is_valid = isinstance(thing, type) and issubclass(thing, base)
        if not is_valid:
            expected = f"{'subclasses' if is_class else 'objects'} of tokenprune.{base.__name__}"
            plugin.fail(f"delivers {thing!r} from {hook}", f"That hook returns {expected}")
            return
        if is_class and inspect.isabstract(thing):
            missing = ", ".join(sorted(thing.__abstractmethods__))
            plugin.fail(
                f"delivers {thing.__name__} from {hook} without {missing}", "Implement what is missing"
            )
            return
        name = getattr(thing, "name", None)
        if not isinstance(name, str) or not name or name != name.lower() or " " in name:
            plugin.fail(
                f"delivers {thing!r} from {hook} with the name {name!r}",
                "Names must be lower case, without spaces",
            )
            return
    plugin.delivers[hook] = delivered


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
