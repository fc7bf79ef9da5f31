# SPDX-License-Identifier: Apache-2.0
"""Multi-modal processing of a pruned model: number of placeholders, cache keys, and budgets of requests.

Placeholders are counted before the tower runs, by `Method.n_keep`.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from tokenprune import Budget, BudgetError, IncompatibleError, InputError

from . import guard, identifiers, stock, transfers
from .errors import EngineRefusedError, reason, refusing
from .info import PruningInfo
from .lookup import derive
from .model import PruningModel, budget_field
from .requests import RequestCounter
from .settings import Settings, refuse_nested, without_pruning_entry

_PROFILING: ContextVar[bool] = ContextVar("profiling", default=False)
_FROM_CACHE: ContextVar[bool] = ContextVar("from_cache", default=False)  # of the request being processed


class PruningProcessor:
    """Mixin for a model's multi-modal processor.

    Methods with a first parameter `original` override a method of vLLM's class (`stock.PROCESSOR` lists
    which); `original` calls the overridden method. An item is an image or a video.
    """

    info: Any
    pruning: Settings | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pruning = self.info.pruning
        with refusing():
            self.info.pruning.rows_allowed(self.info.largest_layout, self.info.pruning.budget)
        self._counter = RequestCounter(self.info)

    def process_items(self, original: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Process items without our arguments, and add the budget of each to the processed inputs."""
        processed = original(without_pruning_entry(arguments))
        budget = self.info.request_budget(arguments)
        pair = [float(budget.keep or 0), float(budget.keep_ratio or 0)]
        for modality, names in PER_ITEM.items():
            n = next((len(processed[name]) for name in names if name in processed), 0)
            if n and modality in self.info.modalities and f"{modality}_embeds" not in processed:
                processed[budget_field(modality)] = torch.tensor([pair] * n, dtype=torch.float64)
        return processed

    def worker_fields(self, original: Callable[..., Any]) -> dict[str, Any]:
        """Return the fields of the processed inputs that are sent to the worker, including the budgets."""
        budgets = {
            budget_field(modality): stock.per_item_field(modality) for modality in self.info.modalities
        }
        return {**original(), **budgets}

    def shorten_placeholders(
        self, original: Callable[..., Any], items: Any, arguments: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Return the model's own prompt updates, with one placeholder per kept row."""
        budget = self.info.request_budget(arguments)
        return [
            stock.replace_placeholders(
                update, functools.partial(self._shortened, update.modality, items, budget)
            )
            if update.modality in self.info.modalities and stock.kind_of(items, update.modality) != "rows"
            else update
            for update in original()
        ]

    def _shortened(
        self, modality: str, items: Any, budget: Budget, placeholders: Callable[[int], Any]
    ) -> Callable[[int], Any]:
        def shortened(index: int) -> Any:
            unpruned = placeholders(index)
            n = stock.n_placeholders(unpruned)
            self.info.check_size(modality, n)
            pieces = self.info.pieces(modality, items, index, n)
            kept = [self.info.pruning.rows_allowed(piece, budget) for piece in pieces]
            return self.info.shorten(modality, unpruned, [len(piece) for piece in pieces], kept)

        return shortened

    def merge_cached(
        self,
        original: Callable[..., Any],
        keys: Mapping[str, Sequence[str]],
        is_cached: Mapping[str, Sequence[bool]],
        processed: Mapping[str, Sequence[Any]],
    ) -> Any:
        """Add a request's new items to vLLM's cache, which replaces them, and store their sizes before."""
        _FROM_CACHE.set(True)
        if not _PROFILING.get():
            for modality, new in processed.items():
                if modality in self.info.modalities:
                    new_keys = itertools.compress(keys[modality], map(operator.not_, is_cached[modality]))
                    for key, item in zip(new_keys, new, strict=True):
                        self._counter.store_size(modality, key, item)
        return original()

    def profiling_inputs(self, original: Callable[..., Any]) -> Any:
        """Make the inputs of vLLM's profiling run, without counting them."""
        token = _PROFILING.set(True)
        try:
            return original()
        finally:
            _PROFILING.reset(token)

    def process_request(self, original: Callable[..., Any], request: Any) -> Any:
        """Process a request, and count it and its visual tokens."""
        if _PROFILING.get():
            return original()
        asked = stock.view("request", request)
        token = _FROM_CACHE.set(False)
        try:
            self.info.check_modalities(asked.items)
            refuse_nested(asked.media_arguments, "the arguments of media loaders")
            processed = original(transfers.with_budget(self.info, request))
            from_cache = _FROM_CACHE.get()
        except (BudgetError, IncompatibleError, InputError) as error:
            self._counter.counts.refuse(reason(error))
            raise
        finally:
            _FROM_CACHE.reset(token)
        self._counter.count(asked.items, stock.view("processed_request", processed), from_cache)
        return processed

    def cache_keys(self, original: Callable[..., Any], request: Any) -> Any:
        """Return the keys under which vLLM caches an item's inputs, tower outputs, keys and values."""
        view = stock.view("request", request)
        own = self.info.own_budget(view.arguments)
        digest = self.info.pruning.digest
        keys = dict(original())
        for modality in set(keys) & set(self.info.modalities):
            kind = stock.kind_of(view.items, modality)
            if kind == "fields":
                keys[modality] = stock.identifiers_of(view, modality)
            elif kind == "rows":
                keys[modality] = [identifiers.whole(key, digest) for key in keys[modality]]
            else:
                keys[modality] = [identifiers.pruned(key, digest, own) for key in keys[modality]]
        return keys


# outputs of these families' transformers processors that have one entry per item
PER_ITEM = {
    "image": ("image_grid_thw", "image_sizes", "num_patches", "image_num_patches", "pixel_values"),
    "video": ("video_grid_thw", "video_num_patches"),
}


def prunable(name: str, model: type[PruningModel], info: type[PruningInfo]) -> Any:
    """Derive the class that replaces vLLM's; it behaves the same unless pruning is configured.

    Until then it also works with a vLLM that lacks some of the names that pruning depends on.
    """
    family = stock.FAMILIES[model.family]
    try:
        vllm_model = stock.stock_class(model.family, "model")
    except EngineRefusedError:
        vllm_model = guard.original(family.model)
        if vllm_model is None:
            raise

    @functools.cache
    def info_class() -> Any:
        base = stock.stock_class(model.family, "info")
        return derive(f"{name}Info", info, base, stock.INFO, family.info_uses)

    @functools.cache
    def processor_class() -> Any:
        base = stock.stock_class(model.family, "processor")
        return derive(f"{name}Processor", PruningProcessor, base, stock.PROCESSOR, {})

    def make_info(context: Any, vllm_info: Callable[[Any], Any]) -> Any:
        if not stock.is_configured(context):
            return vllm_info(context)
        stock.check(model.family)
        return info_class()(context)

    def make_processor(made_info: Any, dummy: Any, vllm_processor: Callable[[Any, Any], Any]) -> Any:
        make = processor_class() if isinstance(made_info, PruningInfo) else vllm_processor
        return make(made_info, dummy)

    derived = derive(name, model, vllm_model, family.overrides, family.uses)
    return stock.with_processor(derived, make_info, make_processor)
