# SPDX-License-Identifier: Apache-2.0
"""Contract checks for plugin authors: one call in a test checks a strategy or an adapter.

Each check raises AssertionError with one sentence that names the broken promise. `check_model` checks the
promises on a given model and returns a `ModelCheck`.
"""

from .contracts import check_adapter, check_method, check_reducer, check_scorer, check_selector
from .examples import example_tokens
from .model_check import check_model
from .results import ModelCheck

__all__ = [
    "ModelCheck",
    "check_adapter",
    "check_method",
    "check_model",
    "check_reducer",
    "check_scorer",
    "check_selector",
    "example_tokens",
]
