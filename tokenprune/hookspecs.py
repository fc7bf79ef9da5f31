# SPDX-License-Identifier: Apache-2.0
"""The five plugin hooks. Each returns classes (or Method objects) and is called once, before any model runs.

An implementation is a function of the same name, marked `@tokenprune.hookimpl`, in a module named by an
entry point of the group ``tokenprune``.
"""

from __future__ import annotations

import pluggy

from .adapter import ModelAdapter
from .methods import Method
from .strategy import Reducer, Scorer, Selector

PROJECT = "tokenprune"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def tokenprune_scorers() -> list[type[Scorer]]:  # type: ignore[empty-body]
    """Return scorer classes. Each has a `name` no other scorer has."""


@hookspec
def tokenprune_selectors() -> list[type[Selector]]:  # type: ignore[empty-body]
    """Return selector classes. Each has a `name` no other selector has."""


@hookspec
def tokenprune_reducers() -> list[type[Reducer]]:  # type: ignore[empty-body]
    """Return reducer classes. Each has a `name` no other reducer has."""


@hookspec
def tokenprune_methods() -> list[Method]:  # type: ignore[empty-body]
    """Return Method objects. Each has a `name` no other method has."""


@hookspec
def tokenprune_adapters() -> list[type[ModelAdapter]]:  # type: ignore[empty-body]
    """Return model adapter classes. Each has a `name` no other adapter has."""
