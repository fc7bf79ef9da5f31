# SPDX-License-Identifier: Apache-2.0
"""The front end's side: how many placeholders a picture gets, names of cached things, what requests ask.

Mixed in before a model's own classes. Placeholders are counted before the tower runs, by `Method.n_keep`.
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
from .lookup import joined
from .model import PruningModel, budget_field
from .settings import Settings, without_ours

logger = logging.getLogger("vllm.tokenprune")
REMEMBERED = 4096  # pictures whose token counts are remembered, for the log


class PruningProcessor:
    """Mixed in before a model's multi-modal processor.

    Methods whose first argument is `vllm` run around vLLM's own, which that is (`stock.PROCESSOR`).
    """

    info: Any
    pruning: Settings | None = None
    _reports = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_whole: dict[str, int] = {}  # tokens of pictures, by their names in vLLM's caches
        self.pruning = self.info.pruning
        with refusing():
            self.info.pruning.rows_allowed(self.info.most_tokens, self.info.pruning.budget)

    def call_transformers(self, vllm: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call the processor of transformers without what is ours."""
        return vllm(without_ours(arguments))

    def processed_pictures(self, vllm: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Send the budget along with each picture."""
        done = vllm()
        budget = self.info.asked(arguments)
        entry = [float(budget.keep or 0), float(budget.keep_ratio or 0)]
        for modality, names in PER_PICTURE.items():
            n = next((len(done[name]) for name in names if name in done), 0)
            if n and modality in self.info.modalities and f"{modality}_embeds" not in done:
                done[budget_field(modality)] = torch.tensor([entry] * n, dtype=torch.float64)
        return done

    def fields(self, vllm: Callable[..., Any]) -> dict[str, Any]:
        """What goes to the worker of each picture: the budget, too."""
        ours = {budget_field(modality): stock.one_of_each(modality) for modality in self.info.modalities}
        return {**vllm(), **ours}

    def placeholders(
        self, vllm: Callable[..., Any], pictures: Any, arguments: Mapping[str, Any]
    ) -> Sequence[Any]:
        """The model's own placeholders, but no more of them than rows stay."""
        budget = self.info.asked(arguments)
        return [
            stock.replaced(update, functools.partial(self._shortened, update.modality, pictures, budget))
            if update.modality in self.info.modalities and stock.brings_pixels(pictures, update.modality)
            else update
            for update in vllm()
        ]

    def _shortened(
        self, modality: str, pictures: Any, budget: Budget, placeholders: Callable[[int], list[int]]
    ) -> Callable[[int], list[int]]:
        def shortened(number: int) -> list[int]:
            full = placeholders(number)
            self.info.check_size(modality, len(full))
            layout = self.info.layout(modality, pictures, number, len(full))
            return full[: self.info.pruning.rows_allowed(layout, budget)]

        return shortened

    def rehearsal(self, vllm: Callable[..., Any]) -> Any:
        """Inputs vLLM rehearses with when it starts; they are not reported."""
        self._reports = False
        try:
            return vllm()
        finally:
            self._reports = True

    def processed_request(self, vllm: Callable[..., Any], request: Any) -> Any:
        """Process a request's pictures, and say in the log how many rows they had and have."""
        made = vllm()
        if self._reports:
            pictures = stock.view("request", request).pictures
            for modality in self.info.modalities:
                done = stock.view("processed_request", made)
                if done.places.get(modality) and stock.brings_pixels(pictures, modality):
                    self._report(
                        done.names[modality], done.pictures[modality], done.places[modality], modality
                    )
        return made

    def _report(self, names: Sequence[str], pictures: Any, places: Sequence[Any], modality: str) -> None:
        for name, picture in zip(names, pictures, strict=True):
            if picture is not None:  # None: vLLM has it already
                self._n_whole[name] = self.info.n_whole(modality, picture)
        while len(self._n_whole) > REMEMBERED:
            self._n_whole.pop(next(iter(self._n_whole)))
        known = [self._n_whole.get(name) for name in names]
        logger.info(
            "tokenprune: %s kept %d of %s rows of %d %s%s",
            self.info.pruning.method.name,
            sum(stock.view("place", place).rows for place in places),
            "?" if None in known else sum(n or 0 for n in known),
            len(names),
            modality,
            "" if len(names) == 1 else "s",
        )

    def names_in_caches(self, vllm: Callable[..., Any], request: Any) -> Any:
        """Names under which vLLM caches inputs, tower outputs and keys and values of a picture's rows."""
        self.info.asked(stock.view("request", request).arguments)  # refuses a request before any work
        digest = self.info.pruning.digest
        return {
            modality: [f"{name}-tokenprune-{digest}" for name in names]
            if modality in self.info.modalities
            else names
            for modality, names in vllm().items()
        }


# what the processors of these families return one entry a picture of
PER_PICTURE = {
    "image": ("image_grid_thw", "image_sizes", "pixel_values"),
    "video": ("video_grid_thw",),
}


def prunable(name: str, model: type[PruningModel], info: type[PruningInfo]) -> Any:
    """Derive the class that vLLM gets in place of its own; it does the same until pruning is configured.

    Up to then it works without the names that a vLLM may lack.
    """
    family = stock.FAMILIES[model.family]
    try:
        theirs = stock.stock_class(model.family, "model")
    except EngineRefusedError:
        theirs = guard.original(family.model)
        if theirs is None:
            raise

    @functools.cache
    def of_info() -> Any:
        base = stock.stock_class(model.family, "info")
        return joined(f"{name}Info", info, base, stock.INFO, family.info_uses)

    @functools.cache
    def of_processor() -> Any:
        base = stock.stock_class(model.family, "processor")
        return joined(f"{name}Processor", PruningProcessor, base, stock.PROCESSOR, {})

    def make_info(context: Any, vllm: Callable[[Any], Any]) -> Any:
        if not stock.is_configured(context):
            return vllm(context)
        stock.check(model.family)
        return of_info()(context)

    def make_processor(made: Any, dummies: Any, vllm: Callable[[Any, Any], Any]) -> Any:
        return (of_processor() if isinstance(made, PruningInfo) else vllm)(made, dummies)

    joint = joined(name, model, theirs, family.around, family.uses)
    return stock.registered(joint, make_info, make_processor)
