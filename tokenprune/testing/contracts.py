# SPDX-License-Identifier: Apache-2.0
"""Checks of the contracts of strategies and adapters on synthetic images.

Each check raises AssertionError with one sentence that names the broken promise.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch
from torch import Tensor, nn

from ..adapter import ModelAdapter
from ..functional import top_slots
from ..methods import STAGES, Method
from ..selection import Selection
from ..stack import stack
from ..strategy import Reducer, Scorer, Selector
from ..tokens import VisualTokens
from .calls import images_for, require, twice, who_is
from .examples import all_equal, example_tokens


def check_scorer(scorer: Scorer, tokens: VisualTokens | None = None) -> None:
    """Check shape, dtype, determinism, purity, declared needs, and that a stack scores like its images."""
    who = who_is(scorer, Scorer)
    images = list(images_for(scorer, tokens))
    single = []
    for image in images:
        scores, again = twice(who, image, partial(scorer.score, image))
        single.append(scores)
        require((scores is None) == (again is None), f"{who} returns None only sometimes")
        if scores is None or again is None:
            continue
        require(scorer.gives_scores, f"{who} says that it gives no scores, but returned some")
        require(isinstance(scores, Tensor), f"{who} returned {type(scores).__name__}, not a tensor")
        n = len(image)
        require(tuple(scores.shape) == (n,), f"{who} returned {tuple(scores.shape)} instead of ({n},)")
        require(scores.dtype == torch.float32, f"{who} returned {scores.dtype} instead of torch.float32")
        require(bool(scores.isfinite().all()), f"{who} returned scores that are not finite")
        require(torch.equal(scores, again), f"{who} returned different scores for the same tokens")
    if not scorer.batched:
        return
    stacked = scorer.score(stack(images))
    expected = [scores for scores in single if scores is not None]
    if stacked is None or not expected:
        require(not expected and stacked is None, f"{who} returns None for only one of images and stacks")
        return
    same = len(stacked) == len(expected) and torch.allclose(stacked, torch.stack(expected), 1e-4, 1e-6)
    require(same, f"{who} says `batched` but scores a stack differently from its images one by one")


def check_selector(selector: Selector, tokens: VisualTokens | None = None) -> None:
    """Check that exactly `keep` valid slots are returned, deterministically, ties to the lowest slot.

    An adaptive selector may return fewer slots. Ties are not checked for selectors with `by_position`. Where
    the selector says `nested`, its picks are compared with those for all tokens.
    """
    who = who_is(selector, Selector)
    images = list(images_for(selector, tokens))
    n = len(images[0])
    random_scores = torch.rand(len(images), n, generator=torch.Generator().manual_seed(0))
    original = random_scores.clone()
    declared = isinstance(selector.adaptive, bool)
    require(declared, f"{who} must say True or False for `adaptive`, not {selector.adaptive!r}")
    for scores in (random_scores[0], torch.ones(n), None):
        _check_nested(who, selector, images[0], scores)
    for keep in sorted({1, 2, n // 3, n - 1, n} & set(range(1, n + 1))):
        for scores in (random_scores[0], torch.ones(n), None):
            first, again = twice(who, images[0], partial(selector.select, images[0], scores, keep))
            _check_pure_selection(who, first, n, keep, selector.adaptive)
            require(torch.equal(first.indices, again.indices), f"{who} is not deterministic")
            require(torch.equal(random_scores, original), f"{who} changed the scores in place")
        if selector.stacks:
            stacked = selector.select(stack(images), random_scores, keep).indices
            pairs = zip(images, random_scores, strict=True)
            expected = torch.stack([selector.select(i, s, keep).indices for i, s in pairs])
            message = f"{who} says `batched` but selects from a stack differently from one by one"
            require(torch.equal(stacked, expected), message)
        if not selector.by_position:
            slots = selector.select(all_equal(images[0]), torch.ones(n), keep).indices.tolist()
            message = f"{who} must give ties to the lowest slots; of {n} equal tokens it took {slots}"
            require(slots == list(range(len(slots))), message)


def check_reducer(reducer: Reducer, tokens: VisualTokens | None = None) -> None:
    """Check that the reducer returns `keep` rows, deterministically, with features for new rows."""
    who = who_is(reducer, Reducer)
    image = next(images_for(reducer, tokens))
    n, width = image.features.shape
    scores = torch.rand(n, generator=torch.Generator().manual_seed(0))
    for keep in range(1, n):
        share = reducer.n_selected(keep, n)
        require(1 <= share <= keep, f"{who} leaves {share} of {keep} rows to the selector")
        chosen = Selection(top_slots(scores, share).sort().values, scores=scores)
        first, again = twice(who, image, partial(reducer.reduce, image, chosen, keep))
        require(len(first) == keep, f"{who} returned {len(first)} rows instead of {keep}")
        kept = [slot for slot in first.indices.tolist() if slot != -1]
        require(len(set(kept)) == len(kept), f"{who} returned a slot twice")
        require(all(0 <= slot < n for slot in kept), f"{who} returned a slot outside 0 ... {n - 1}")
        if first.features is None or again.features is None:
            require(len(kept) == keep, f"{who} returned new rows without features")
            continue
        shape = tuple(first.features.shape)
        require(shape == (keep, width), f"{who} returned features {shape} instead of {(keep, width)}")
        require(bool(first.features.isfinite().all()), f"{who} returned features that are not finite")
        require(torch.equal(first.features, again.features), f"{who} is not deterministic")


def check_method(method: Method, tokens: VisualTokens | None = None) -> None:
    """Check that a method keeps `n_keep` rows, deterministically, and that keeping all changes nothing.

    An adaptive method may keep fewer rows, with any budget.
    """
    who = f"method {method.name!r}"
    tokens = example_tokens() if tokens is None else tokens
    n = len(tokens)
    for keep in sorted({1, 2, n // 3, n - 1} & set(range(1, n))):
        first, again = twice(who, tokens, partial(method.select, tokens, keep))
        expected = method.n_keep(tokens.layout, keep)
        if method.adaptive:
            require(expected is None, f"{who} is adaptive, but n_keep says {expected}, not None")
        else:
            require(len(first) == expected, f"{who} kept {len(first)} rows, but n_keep says {expected}")
        require(torch.equal(first.indices, again.indices), f"{who} is not deterministic")
    for keep in (n, n + 5):
        everything, _ = twice(who, tokens, partial(method.select, tokens, keep))
        if method.adaptive:
            continue
        same = everything.indices.tolist() == list(range(n)) and everything.features is None
        require(same, f"{who} must keep all {n} tokens as they are when keep={keep}")


def check_adapter(adapter: type[ModelAdapter], model: nn.Module | None = None) -> None:
    """Check an adapter's declarations and, with a `model` it supports, its properties for that model."""
    who = f"adapter {getattr(adapter, 'name', adapter)!r}"
    require(issubclass(adapter, ModelAdapter), f"{who} is not a subclass of tokenprune.ModelAdapter")
    require(not inspect.isabstract(adapter), f"{who} does not implement all methods of ModelAdapter")
    require(adapter.matches(nn.Identity()) is False, f"{who} claims a bare torch.nn.Identity()")
    if model is None:
        return
    require(adapter.matches(model) is True, f"{who} does not claim {type(model).__name__}")
    instance = adapter(model)
    require(set(instance.provides) <= set(STAGES), f"{who} has stages other than {', '.join(STAGES)}")
    require(instance.default_stage in instance.provides, f"{who} cannot cut at its own default stage")
    rules = instance.positions
    is_known = bool(rules) and set(rules) <= {"contiguous", "original"}
    require(is_known, f"{who} allows the positions {rules}; there are 'contiguous' and 'original'")


def _check_nested(who: str, selector: Selector, tokens: VisualTokens, scores: Tensor | None) -> None:
    """Check that the picks for k tokens are the first k of those for all, if the selector says so."""
    says = selector.nested(scored=scores is not None)
    require(isinstance(says, bool), f"{who} must return True or False from `nested`, not {says!r}")
    if not says:
        return
    n = len(tokens)
    every = selector.select(tokens, scores, n).order
    for keep in range(1, n + 1):
        order = selector.select(tokens, scores, keep).order
        same = order is not None and every is not None and torch.equal(order, every[:keep])
        given = "without scores" if scores is None else "with scores"
        message = f"{who} says `nested`, but {given} `order` for {keep} tokens does not begin that for {n}"
        require(same, message)


def _check_pure_selection(who: str, selection: Selection, n: int, keep: int, adaptive: bool) -> None:
    slots = selection.indices
    require(
        slots.dtype == torch.long and slots.ndim == 1, f"{who} must return indices (K,) of dtype torch.long"
    )
    least, expected = (1, f"1 to {keep}") if adaptive else (keep, str(keep))
    require(least <= len(slots) <= keep, f"{who} returned {len(slots)} rows instead of {expected}")
    require(bool(((slots >= 0) & (slots < n)).all()), f"{who} returned a slot outside 0 ... {n - 1}")
    ascending = bool((slots.diff() > 0).all())
    require(ascending, f"{who} must return unique slots in ascending order, got {slots.tolist()}")
    same = selection.order is None or torch.equal(selection.order.sort().values, slots)
    require(same, f"{who} returned an `order` that is not a permutation of its indices")
