# SPDX-License-Identifier: Apache-2.0
"""Prune the visual tokens of stock vision-language models: one call, any method, reversible."""

from .adapter import ModelAdapter
from .api import (
    apply,
    list_adapters,
    list_methods,
    list_reducers,
    list_scorers,
    list_selectors,
    method,
    reducer,
    scorer,
    selector,
)
from .boundaries import BoundaryTrace, CallTrace, RowTrace
from .budget import Budget, cover
from .covering import Cover
from .cut import Cut
from .errors import (
    AlreadyPrunedError,
    BudgetError,
    IncompatibleError,
    InputError,
    OptionError,
    PluginConflictError,
    PluginError,
    ReceiptError,
    StaleCacheError,
    TokenPruneError,
    UnknownNameError,
    UnsupportedCallError,
    UnsupportedModelError,
    UntestedVersionWarning,
)
from .handle import PruningHandle, active_handle, is_pruned
from .hookspecs import hookimpl
from .methods import Method
from .projector import LinearForm, Projector
from .registry import default_registry
from .report import ImageReport, PruningReport
from .schedule import ExplicitSchedule, GeometricSchedule, Schedule
from .selection import Selection
from .setting import CalibratedSetting, load_setting
from .strategy import Reducer, Scorer, Selector
from .tokens import Layout, VisualTokens


def __getattr__(name: str) -> object:
    """Raise ImportError for `tokenprune.visualize`, which has moved."""
    if name == "visualize":
        raise ImportError("tokenprune.visualize is now a package of its own: import tokenprune_visualize")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AlreadyPrunedError",
    "BoundaryTrace",
    "Budget",
    "BudgetError",
    "CalibratedSetting",
    "CallTrace",
    "Cover",
    "Cut",
    "ExplicitSchedule",
    "GeometricSchedule",
    "ImageReport",
    "IncompatibleError",
    "InputError",
    "Layout",
    "LinearForm",
    "Method",
    "ModelAdapter",
    "OptionError",
    "PluginConflictError",
    "PluginError",
    "Projector",
    "PruningHandle",
    "PruningReport",
    "ReceiptError",
    "Reducer",
    "RowTrace",
    "Schedule",
    "Scorer",
    "Selection",
    "Selector",
    "StaleCacheError",
    "TokenPruneError",
    "UnknownNameError",
    "UnsupportedCallError",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "VisualTokens",
    "active_handle",
    "apply",
    "cover",
    "default_registry",
    "hookimpl",
    "is_pruned",
    "list_adapters",
    "list_methods",
    "list_reducers",
    "list_scorers",
    "list_selectors",
    "load_setting",
    "method",
    "reducer",
    "scorer",
    "selector",
]
