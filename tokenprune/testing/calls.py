# SPDX-License-Identifier: Apache-2.0
"""Call strategies as the contract checks do: with declared signals only, twice, on unchanged inputs."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import IncompatibleError, PluginError
from ..strategy import Strategy
from ..tokens import VisualTokens
from .examples import example_tokens

R = TypeVar("R")


def who_is(strategy: Strategy, base: type[Strategy]) -> str:
    """Return a strategy's kind and name; raise unless it is an instance of `base`."""
    require(isinstance(strategy, base), f"{strategy!r} is not an instance of tokenprune.{base.__name__}")
    return f"{strategy.kind} {strategy.name!r}"


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError unless a promise is kept."""
    if not condition:
        raise AssertionError(message)


def images_for(strategy: Strategy, tokens: VisualTokens | None) -> Iterator[VisualTokens]:
    """Yield images with the signals that the strategy declares, and no others."""
    for image in [example_tokens(seed=0), example_tokens(seed=1)] if tokens is None else [tokens]:
        missing = ", ".join(sorted(strategy.needs - image.provides))
        require(not missing, f"{strategy.kind} {strategy.name!r} needs {missing}: pass tokens that have it")
        signals = {name: image.signal(name) for name in strategy.needs}
        yield VisualTokens(image.features, signals, image.layout, image.layer)


def _random_states() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()))


def _tensors(tokens: VisualTokens) -> dict[str, Tensor]:
    named = {name: tokens.signal(name) for name in tokens.provides}
    return {"features": tokens.features} | {k: v for k, v in named.items() if isinstance(v, Tensor)}


def twice(who: str, tokens: VisualTokens, call: Callable[[], R]) -> tuple[R, R]:
    """Call twice; raise if inputs or global random states change."""
    before = {name: value.clone() for name, value in _tensors(tokens).items()}
    states = _random_states()
    try:
        results = call(), call()
    except IncompatibleError as error:
        raise AssertionError(f"{who} uses a signal it does not declare in `needs`: {error}") from error
    except PluginError as error:
        raise AssertionError(str(error)) from error
    require(_random_states() == states, f"{who} uses a global random state; make a generator from a seed")
    for name, value in _tensors(tokens).items():
        require(torch.equal(value, before[name]), f"{who} changed the input {name!r} in place")
    return results
