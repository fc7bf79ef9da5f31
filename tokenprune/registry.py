# SPDX-License-Identifier: Apache-2.0
"""Names to strategies. Plugins deliver; this page looks up, and says what exists when a name does not."""

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


class Registry(StrategyLookup):
    """Everything the plugins deliver, by kind and name."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self._entries: dict[str, dict[str, list[Entry]]] = {}
        for plugin in plugins:
            for hook, things in plugin.delivers.items():
                by_name = self._entries.setdefault(_kind(hook), {})
                for thing in things:
                    by_name.setdefault(thing.name, []).append((thing, plugin))

    def names(self, kind: str) -> list[str]:
        """Names of one kind (``scorer``, ``selector``, ``reducer``, ``method``, ``adapter``), sorted."""
        return sorted(self._entries.get(kind, {}))

    def conflicts(self) -> list[str]:
        """One sentence for each name that two plugins offer."""
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
            With near misses and the list of what there is.
        PluginConflictError
            When two plugins offer the name.
        PluginError
            When the plugin of that name is broken.
        """
        if not isinstance(name, str):
            raise UnknownNameError(f"a {kind} is asked for by its name, got {name!r}")
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
        """Return the plugin that delivers a name."""
        self.find(kind, name)
        return self._entries[kind][name][0][1]

    def scorer(self, given: str | Scorer | type[Scorer]) -> Scorer:
        """Return a scorer for a name, a class or an instance."""
        found: Scorer = self._instance("scorer", Scorer, given)
        return found

    def selector(self, given: str | Selector | type[Selector]) -> Selector:
        """Return a selector for a name, a class or an instance."""
        found: Selector = self._instance("selector", Selector, given)
        return found

    def reducer(self, given: str | Reducer | type[Reducer]) -> Reducer:
        """Return a reducer for a name, a class or an instance."""
        found: Reducer = self._instance("reducer", Reducer, given)
        return found

    def _instance(self, kind: str, base: Any, given: Any) -> Any:
        if isinstance(given, base):
            return given
        if isinstance(given, str):
            given = self.find(kind, given)
        if isinstance(given, type) and issubclass(given, base):
            return given()
        raise UnknownNameError(f"a {kind} is a name or a tokenprune.{base.__name__}, got {given!r}")

    def adapter_for(self, model: nn.Module) -> type[ModelAdapter]:
        """Return the one adapter that knows this model.

        Raises
        ------
        UnsupportedModelError
            When none does, or several do.
        """
        fitting: list[Entry] = []
        failed, reasons = [], []
        for adapter, plugin in itertools.chain(*self._entries.get("adapter", {}).values()):
            try:
                fits = adapter.matches(model)
                reasons += [] if fits else [adapter.why_not(model)]
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # one stranger's failure must not take the other adapters down
                failed.append(f"adapter {adapter.name!r} of {plugin.origin}: {type(error).__name__}: {error}")
                continue
            if fits:
                fitting.append((adapter, plugin))
        what = f"{type(model).__module__}.{type(model).__qualname__}"
        if len(fitting) == 1:
            found: type[ModelAdapter] = fitting[0][0]
            return found
        if fitting:
            claims = " and ".join(f"{adapter.name} of {plugin.origin}" for adapter, plugin in fitting)
            raise UnsupportedModelError(
                f"several adapters claim {what}: {claims}. Switch all but one off with {DISABLE_VARIABLE}"
            )
        self._none_installed()
        tried = ", ".join(self.names("adapter")) or "none"
        failures = f" These failed to answer: {'; '.join(failed)}." if failed else ""
        said = "".join(f" {reason}." for reason in reasons if reason)
        raise UnsupportedModelError(
            f"no adapter knows {what} (tried: {tried}).{said}{failures} Pass the whole model, with its "
            f"head and without wrappers, or write an adapter: docs/writing-an-adapter.md"
        )

    def _none_installed(self) -> None:
        if not any(plugin.delivers for plugin in self.plugins):
            raise PluginError("no tokenprune plugins are installed; run `pip install -e .` in the checkout")

    def _unknown(self, kind: str, name: str) -> str:
        self._none_installed()
        names = self.names(kind)
        close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        elsewhere = [k for k in self._entries if k != kind and name in self._entries[k]]
        other = f" It is the name of another kind of thing: {', '.join(elsewhere)}." if elsewhere else ""
        broken = [p.name for p in self.plugins if p.problem]
        lost = f" Broken plugins, see `tokenprune plugins`: {', '.join(broken)}." if broken else ""
        off = [p.name for p in self.plugins if p.disabled]
        lost += f" Switched off by {DISABLE_VARIABLE}: {', '.join(off)}." if off else ""
        return f"unknown {kind} {name!r}.{hint}{other} Available: {', '.join(names) or 'none'}.{lost}"


def _kind(hook: str) -> str:
    """Turn ``tokenprune_scorers`` into ``scorer``."""
    return hook.removeprefix("tokenprune_").removesuffix("s")


def _conflict(kind: str, name: str, entries: list[Entry]) -> str:
    offers = " and ".join(f"{_where(thing)} of {plugin.origin}" for thing, plugin in entries)
    return (
        f"the {kind} name {name!r} is offered twice: {offers}. Rename one, uninstall one, or switch one off "
        f"with {DISABLE_VARIABLE}={entries[-1][1].name}"
    )


def _where(thing: Any) -> str:
    owner = thing if isinstance(thing, type) else type(thing)
    return f"{owner.__module__}.{owner.__qualname__}"


@functools.cache
def default_registry() -> Registry:
    """Return the registry of the installed plugins, loaded on first use."""
    return Registry(discover())


set_default_lookup(default_registry)  # nothing is loaded by this
