# SPDX-License-Identifier: Apache-2.0
"""Registry of what the plugins provide, by kind and name."""

from __future__ import annotations

import difflib
import functools
import itertools
from typing import Any

from torch import nn

from .adapter import ModelAdapter
from .errors import PluginConflictError, PluginError, UnknownNameError, UnsupportedModelError
from .lookup import StrategyLookup, set_default_lookup
from .plugins import DISABLE_VARIABLE, Plugin, discover
from .strategy import Reducer, Scorer, Selector

Entry = tuple[Any, Plugin]
BASES: dict[str, Any] = {"scorer": Scorer, "selector": Selector, "reducer": Reducer}


class Registry(StrategyLookup):
    """Strategies, methods and adapters of the plugins, by kind and name."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self._entries: dict[str, dict[str, list[Entry]]] = {}
        for plugin in plugins:
            for hook, things in plugin.delivers.items():
                by_name = self._entries.setdefault(_kind(hook), {})
                for thing in things:
                    by_name.setdefault(thing.name, []).append((thing, plugin))

    def names(self, kind: str) -> list[str]:
        """Return all names of a kind (``scorer``, ``selector``, ``reducer``, ``method``, ``adapter``)."""
        return sorted(self._entries.get(kind, {}))

    def conflicts(self) -> list[str]:
        """Return one sentence for each name that two plugins provide."""
        return [
            _conflict(kind, name, entries)
            for kind, by_name in self._entries.items()
            for name, entries in sorted(by_name.items())
            if len(entries) > 1
        ]

    def find(self, kind: str, name: Any) -> Any:
        """Return the class (for methods: the object) called `name`.

        Raises
        ------
        UnknownNameError
            With close matches and the list of available names.
        PluginConflictError
            When two plugins provide the name.
        PluginError
            When the plugin of that name is broken.
        """
        if not isinstance(name, str):
            raise UnknownNameError(f"the name of a {kind} must be a string, got {name!r}")
        entries = self._entries.get(kind, {}).get(name, [])
        if len(entries) > 1:
            raise PluginConflictError(_conflict(kind, name, entries))
        if entries:
            return entries[0][0]
        for plugin in self.plugins:
            if plugin.problem and name in (plugin.name, plugin.name.replace("_", "-")):
                raise PluginError(plugin.problem)
        raise UnknownNameError(self._unknown(kind, name))

    def origin(self, kind: str, name: str) -> Plugin:
        """Return the plugin that provides a name."""
        self.find(kind, name)
        return self._entries[kind][name][0][1]

    def scorer(self, source: str | Scorer | type[Scorer]) -> Scorer:
        """Return a scorer from a name, a class or an instance."""
        scorer: Scorer = self.strategy("scorer", source)
        return scorer

    def selector(self, source: str | Selector | type[Selector]) -> Selector:
        """Return a selector from a name, a class or an instance."""
        selector: Selector = self.strategy("selector", source)
        return selector

    def reducer(self, source: str | Reducer | type[Reducer]) -> Reducer:
        """Return a reducer from a name, a class or an instance."""
        reducer: Reducer = self.strategy("reducer", source)
        return reducer

    def strategy(self, kind: str, source: Any) -> Any:
        """Return a strategy of a kind from a name, a class or an instance."""
        base = BASES[kind]
        if isinstance(source, base):
            return source
        if isinstance(source, str):
            source = self.find(kind, source)
        if isinstance(source, type) and issubclass(source, base):
            return source()
        raise UnknownNameError(f"a {kind} must be a name or a tokenprune.{base.__name__}, got {source!r}")

    def adapter_for(self, model: nn.Module) -> type[ModelAdapter]:
        """Return the adapter that supports this model; a fallback only if no other adapter does.

        Raises
        ------
        UnsupportedModelError
            When no adapter does, or several do.
        """
        matching: list[Entry] = []
        failed, reasons = [], []
        for adapter, plugin in itertools.chain(*self._entries.get("adapter", {}).values()):
            try:
                fits = adapter.matches(model)
                reasons += [] if fits else [adapter.why_not(model)]
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a broken adapter must not affect the others
                failed.append(f"adapter {adapter.name!r} of {plugin.origin}: {type(error).__name__}: {error}")
                continue
            if fits:
                matching.append((adapter, plugin))
        what = f"{type(model).__module__}.{type(model).__qualname__}"
        matching = [entry for entry in matching if not entry[0].fallback] or matching
        if len(matching) == 1:
            match: type[ModelAdapter] = matching[0][0]
            return match
        if matching:
            claims = " and ".join(f"{adapter.name} of {plugin.origin}" for adapter, plugin in matching)
            raise UnsupportedModelError(
                f"several adapters claim {what}: {claims}. Switch all but one off with {DISABLE_VARIABLE}"
            )
        self._check_plugins()
        tried = ", ".join(self.names("adapter")) or "none"
        failures = f" These failed: {'; '.join(failed)}." if failed else ""
        details = "".join(f" {reason}." for reason in reasons if reason)
        raise UnsupportedModelError(
            f"no adapter knows {what} (tried: {tried}).{details}{failures} Pass the whole model, with its "
            f"head and without wrappers, or write an adapter: docs/writing-an-adapter.md"
        )

    def _check_plugins(self) -> None:
        if not any(plugin.delivers for plugin in self.plugins):
            raise PluginError("no tokenprune plugins are installed; run `pip install -e .` in the checkout")

    def _unknown(self, kind: str, name: str) -> str:
        self._check_plugins()
        names = self.names(kind)
        close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        other_kinds = [k for k in self._entries if k != kind and name in self._entries[k]]
        hint += f" It names another kind: {', '.join(other_kinds)}." if other_kinds else ""
        broken = [p.name for p in self.plugins if p.problem]
        missing = f" Broken plugins, see `tokenprune plugins`: {', '.join(broken)}." if broken else ""
        disabled = [p.name for p in self.plugins if p.disabled]
        missing += f" Disabled by {DISABLE_VARIABLE}: {', '.join(disabled)}." if disabled else ""
        return f"unknown {kind} {name!r}.{hint} Available: {', '.join(names) or 'none'}.{missing}"


def _kind(hook: str) -> str:
    """Turn ``tokenprune_scorers`` into ``scorer``."""
    return hook.removeprefix("tokenprune_").removesuffix("s")


def _conflict(kind: str, name: str, entries: list[Entry]) -> str:
    providers = " and ".join(f"{_qualified_name(entry)} of {plugin.origin}" for entry, plugin in entries)
    return (
        f"the {kind} name {name!r} is offered twice: {providers}. Rename one, uninstall one, or disable one "
        f"with {DISABLE_VARIABLE}={entries[-1][1].name}"
    )


def _qualified_name(thing: Any) -> str:
    owner = thing if isinstance(thing, type) else type(thing)
    return f"{owner.__module__}.{owner.__qualname__}"


@functools.cache
def default_registry() -> Registry:
    """Return the registry of the installed plugins, loaded on first use."""
    return Registry(discover())


set_default_lookup(default_registry)  # plugins are loaded on first use
