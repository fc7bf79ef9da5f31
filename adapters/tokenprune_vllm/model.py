# SPDX-License-Identifier: Apache-2.0
"""Mixin for vLLM's model classes: prunes images between the projector and the language model.

Without a configuration vLLM's own methods run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Budget, Layout, Selection, VisualTokens

from . import stock
from .errors import EngineRefusedError, refusing
from .info import PruningInfo
from .projector import PlainProjector, ReadProjector
from .ranks import broadcast_selection, on_first_rank
from .settings import Settings
from .tower_cuts import TowerCuts
from .tower_run import EngineRun
from .versions import warn_if_untested

logger = logging.getLogger("vllm.tokenprune")

MODALITIES = ("image", "video")


def budget_field(modality: str) -> str:
    """Return the name of the field with an item's budget for the worker: (keep, 0) or (0, keep_ratio)."""
    return f"tokenprune_{modality}"


class PruningModel:
    """Mixin for a vLLM model class. `pruning` is None if pruning is not configured.

    Methods with a first parameter `original` override a method of vLLM's class (`stock.MODEL` lists which)
    while pruning is configured; `original` calls the overridden method. An item is an image or a video.
    """

    family: ClassVar[str]
    info: ClassVar[type[PruningInfo]] = PruningInfo
    pruning: Settings | None = None
    _projector: ReadProjector | PlainProjector

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        options = stock.options(vllm_config)
        with refusing():
            settings = Settings.read(options.configuration)
            if settings is not None:
                settings = self.info.of_tower(settings, options.configuration)
                stock.check(self.family)
                options.check()
                self.check_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.pruning = settings
        if settings is not None:
            self._budgets: dict[str, Tensor | None] = {}
            self._recorded: dict[str, Any] = {}
            self._hf_config: Any = options.configuration
            self._max_tower_tokens: int = options.max_tower_tokens
            self._tower_cuts: TowerCuts | None = None
            if settings.cuts_tower:
                self._tower_cuts = self.cut_tower(settings)
            else:
                self.watch(settings.method.needs)
            _log_start(settings)

    @torch.no_grad()
    def eval(self) -> Any:
        """Read the projector, whose weights may be refused. vLLM calls this once the weights are loaded."""
        reads = self.pruning is not None and "projector" in self.pruning.method.needs
        if reads and not self._projector.is_absent:
            self._projector.current().linear_form()
        return super().eval()  # type: ignore[misc]

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse engine options that are incompatible with pruning."""
        options = stock.options(vllm_config)
        if options.video_pruning:
            raise EngineRefusedError(
                "tokenprune: --video-pruning-rate, vLLM's own pruning, cannot be combined with tokenprune; "
                "omit one of the two"
            )
        if options.tower_lora:
            raise EngineRefusedError(
                "tokenprune: LoRA in the tower or the projector is not supported; start without "
                "--enable-tower-connector-lora"
            )
        if options.compiled_tower:
            raise EngineRefusedError(
                "tokenprune: compile_mm_encoder is not supported, because hooks record what the tower "
                "computes"
            )
        if connectors := stock.unsupported_kv_connectors(vllm_config):
            raise EngineRefusedError(
                f"tokenprune: the KV connector {', '.join(connectors)} is not supported, because it may take "
                "the keys and values of one image or pruning configuration for those of another; supported: "
                f"{', '.join(stock.KV_CONNECTORS)}, and several of these in a MultiConnector"
            )

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks that record in `self._recorded` what the signals in `needs` are computed from."""
        raise NotImplementedError

    def cut_tower(self, settings: Settings) -> TowerCuts:
        """Register hooks on the tower that drop tokens before its blocks."""
        if not settings.boundaries:
            raise EngineRefusedError(
                f"tokenprune: tokens cannot be dropped inside the vision tower of {self.family}; "
                'leave "stage" out'
            )
        blocks = stock.part(self, "tower_blocks").wrapped
        return TowerCuts(blocks, settings.boundaries, stock.arguments(self.family))

    def cutting(self, run: EngineRun | None) -> AbstractContextManager[None]:
        """Context manager: make the cuts of a run of the tower; None: none."""
        return nullcontext() if self._tower_cuts is None else self._tower_cuts.running(run)

    def item_budgets(self, modality: str, items: slice) -> list[Budget] | None:
        """Return the budgets of items of a step; None if they are not pruned (profiling)."""
        budgets = self._budgets.get(modality)
        if budgets is None:
            return None
        pairs = [tuple(pair) for pair in budgets.reshape(-1, 2)[items].tolist()]
        return [Budget(int(keep)) if keep else Budget(None, ratio) for keep, ratio in pairs]

    def tower_graphs(self, original: Callable[..., Any]) -> Any:
        """Disable the tower's CUDA graphs, which would bypass pruning."""
        return stock.disable_tower_graphs(original())

    def current_projector(self) -> Any:
        """Return the projector with its current weights, read once per run of the tower."""
        if "projector" not in self._recorded:
            self._recorded["projector"] = self._projector.current()
        return self._recorded["projector"]

    def embed_items(self, original: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
        """Return the rows of the items of a step, pruned if they have a budget."""
        inputs = dict(inputs)
        self._budgets = {modality: inputs.pop(budget_field(modality), None) for modality in MODALITIES}
        try:
            return original(inputs)
        finally:
            self._budgets, self._recorded = {}, {}

    def tower_batches(self, n_tokens: Sequence[int], alike: Sequence[Any] | None = None) -> Iterator[slice]:
        """Divide the items of a step into batches for the tower, given their token counts before pruning.

        The scheduler counts kept rows only, so a step may have many more items than without pruning.

        Parameters
        ----------
        alike
            A value for each item; those of a batch are equal.
        """
        start = total = 0
        for index, n in enumerate(n_tokens):
            differs = alike is not None and alike[index] != alike[start]
            if index > start and (differs or total + n > self._max_tower_tokens):
                yield slice(start, index)
                self._recorded = {}  # those of the previous batch
                start, total = index, 0
            total += n
        yield slice(start, len(n_tokens))

    @torch.no_grad()
    def select(
        self,
        modality: str,
        item_rows: Sequence[Tensor],
        layouts: Sequence[Layout],
        signals_of: Callable[[int], Mapping[str, Any]],
        first: int = 0,
        n_pieces: Sequence[int] | None = None,
    ) -> list[Selection | None]:
        """Select the rows of each item to keep. None means that all are kept.

        Parameters
        ----------
        item_rows
            Rows (N, D) of each item.
        signals_of
            Returns the names and values (or functions) of an item's signals, given its index.
        first
            Index of the first item among all items of the step.
        n_pieces
            For items whose parts have budgets of their own: the number of parts of each item. The other
            arguments are then about these parts, in order.
        """
        n_pieces = [1] * len(item_rows) if n_pieces is None else n_pieces
        settings, of_items = self.pruning, self.item_budgets(modality, slice(first, first + len(n_pieces)))
        if settings is None or of_items is None:
            return [None] * len(item_rows)
        budgets = [budget for budget, n in zip(of_items, n_pieces, strict=True) for _ in range(n)]
        selections: list[Selection | None] = []
        for index, (rows, layout, budget) in enumerate(zip(item_rows, layouts, budgets, strict=True)):
            if settings.rows(layout, budget) >= len(rows):
                selections.append(None)
                continue
            tokens = VisualTokens(rows, signals_of(index), layout)
            selections.append(broadcast_selection(settings.method.select(tokens, budget)))
        return selections


def kept_rows(rows: Tensor, selection: Selection | None) -> Tensor:
    """Gather the kept rows (K, D) among the rows (N, D) of an item."""
    if selection is None:
        return rows
    return rows[selection.indices] if selection.features is None else selection.features.to(rows.dtype)


def _log_start(settings: Settings) -> None:
    import vllm

    if not on_first_rank():
        return
    warn_if_untested(vllm.__version__)
    logger.info("tokenprune: %s, %s per image", settings.method.name, settings.budget)
    if not stock.function("on_cpu")():
        logger.warning("tokenprune is experimental on this device: inside vLLM it has been run on CPUs only")
