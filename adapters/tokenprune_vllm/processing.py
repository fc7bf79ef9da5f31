# SPDX-License-Identifier: Apache-2.0
"""Multi-modal processing of a pruned model: number of placeholders, cache keys, and budgets of requests.

Placeholders are counted before the tower runs, by `Method.n_keep`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tokenprune import Budget

from . import guard, stock
from .errors import EngineRefusedError, refusing
from .info import PruningInfo
from .lookup import derive
from .model import PruningModel, budget_field
from .settings import Settings, without_pruning_entry

logger = logging.getLogger("vllm.tokenprune")
MAX_STORED = 4096  # items whose token counts are stored for the log


class PruningProcessor:
    """Mixin for a model's multi-modal processor.

    Methods with a first parameter `original` override a method of vLLM's class (`stock.PROCESSOR` lists
    which); `original` calls the overridden method. An item is an image or a video.
    """

    info: Any
    pruning: Settings | None = None
    _logs = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_unpruned: dict[str, int] = {}  # number of tokens of items, by their keys in vLLM's caches
        self.pruning = self.info.pruning
        with refusing():
            self.info.pruning.rows_allowed(self.info.largest_layout, self.info.pruning.budget)

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
            if update.modality in self.info.modalities and stock.has_pixels(items, update.modality)
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

    def profiling_inputs(self, original: Callable[..., Any]) -> Any:
        """Make the inputs of vLLM's profiling run, without logging them."""
        self._logs = False
        try:
            return original()
        finally:
            self._logs = True

    def process_request(self, original: Callable[..., Any], request: Any) -> Any:
        """Process a request, and log how many rows of its items are kept."""
        processed = original()
        if self._logs:
            items = stock.view("request", request).items
            for modality in self.info.modalities:
                result = stock.view("processed_request", processed)
                if result.placeholders.get(modality) and stock.has_pixels(items, modality):
                    self._log(
                        result.keys[modality],
                        result.items[modality],
                        result.placeholders[modality],
                        modality,
                    )
        return processed

    def _log(self, keys: Sequence[str], items: Any, placeholders: Sequence[Any], modality: str) -> None:
        for key, item in zip(keys, items, strict=True):
            if item is not None:  # None if vLLM has cached it
                self._n_unpruned[key] = self.info.n_unpruned(modality, item)
        while len(self._n_unpruned) > MAX_STORED:
            self._n_unpruned.pop(next(iter(self._n_unpruned)))
        counts = [self._n_unpruned.get(key) for key in keys]
        logger.info(
            "tokenprune: %s kept %d of %s rows of %d %s%s",
            self.info.pruning.method.name,
            sum(stock.view("placeholder", placeholder).rows for placeholder in placeholders),
            "?" if None in counts else sum(n or 0 for n in counts),
            len(keys),
            modality,
            "" if len(keys) == 1 else "s",
        )

    def cache_keys(self, original: Callable[..., Any], request: Any) -> Any:
        """Return the keys under which vLLM caches an item's inputs, tower outputs, keys and values."""
        view = stock.view("request", request)  # fail before any other work
        self.info.request_budget(view.arguments)
        if self._logs:  # vLLM profiles all modalities
            self.info.check_modalities(view.items)
        digest = self.info.pruning.digest
        return {
            modality: [f"{key}-tokenprune-{digest}" for key in keys]
            if modality in self.info.modalities
            else keys
            for modality, keys in original().items()
        }


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
