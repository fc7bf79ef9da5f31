# SPDX-License-Identifier: Apache-2.0
"""The worker's side: prune a picture's rows between the projector and the language model.

Mixed in before a model's own class, of which everything is kept. Without a configuration nothing is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Budget, Layout, Selection, VisualTokens

from . import stock
from .errors import EngineRefusedError, refusing
from .projector import ReadProjector
from .ranks import agreed
from .settings import Settings

logger = logging.getLogger("vllm.tokenprune")

MODALITIES = ("image", "video")


def budget_field(modality: str) -> str:
    """Name of what travels to the worker with each picture: (keep, 0) or (0, keep_ratio)."""
    return f"tokenprune_{modality}"


class PruningModel:
    """Mixed in before a vLLM model class. `pruning` is None where nothing was asked for.

    Methods whose first argument is `vllm` run around vLLM's own, which that is (`stock.MODEL`); only while
    pruning.
    """

    family: ClassVar[str]
    pruning: Settings | None = None
    _projector: ReadProjector

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        options = stock.options(vllm_config)
        with refusing():
            settings = Settings.read(options.configuration)
            if settings is not None:
                stock.check(self.family)
                options.check()
                self.check_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.pruning = settings
        if settings is not None:
            self._budgets: dict[str, Tensor | None] = {}
            self._seen: dict[str, Any] = {}
            self._hf_config: Any = options.configuration
            self._most_at_once: int = options.most_at_once
            self.watch(settings.method.needs)
            _announce(settings)

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse engine options that are incompatible with pruning."""
        options = stock.options(vllm_config)
        if options.video_pruning:
            raise EngineRefusedError(
                "tokenprune: --video-pruning-rate is vLLM's own pruning; leave one of the two out"
            )
        if options.tower_lora:
            raise EngineRefusedError(
                "tokenprune: LoRA in the tower or the projector is not supported; start without "
                "--enable-tower-connector-lora"
            )
        if options.compiled_tower:
            raise EngineRefusedError(
                "tokenprune: compile_mm_encoder is not supported; what the tower computes must be seen"
            )

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks that record the inputs of the signals `needs` in `self._seen`."""
        raise NotImplementedError

    def projector_now(self) -> Any:
        """The projector with its current weights, read once per run of the tower."""
        if "projector" not in self._seen:
            self._seen["projector"] = self._projector.now()
        return self._seen["projector"]

    def pictures_of_a_step(self, vllm: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """Rows of the pictures of a step, fewer of them where that was asked for."""
        given = dict(given)
        self._budgets = {modality: given.pop(budget_field(modality), None) for modality in MODALITIES}
        try:
            return vllm(given)
        finally:
            self._budgets, self._seen = {}, {}

    def parts(self, tokens: Sequence[int]) -> Iterator[slice]:
        """Divide the pictures of a step, of so many tokens each without pruning, among runs of the tower.

        The scheduler counts rows that stay, and may put many more pictures into a step than without pruning.
        """
        begin = total = 0
        for end, n in enumerate(tokens):
            if end > begin and total + n > self._most_at_once:
                yield slice(begin, end)
                self._seen = {}  # of the pictures before
                begin, total = end, 0
            total += n
        yield slice(begin, len(tokens))

    @torch.no_grad()
    def select(
        self,
        modality: str,
        pictures: Sequence[Tensor],
        layouts: Sequence[Layout],
        signals_of: Callable[[int], Mapping[str, Any]],
        first: int = 0,
    ) -> list[Selection | None]:
        """Select the rows of each picture to keep; None keeps all.

        Parameters
        ----------
        pictures
            Rows (N, D) of each.
        signals_of
            Names and values (or functions) of the signals of a picture, by its number.
        first
            Number of the first of them among the pictures of the step.
        """
        settings, budgets = self.pruning, self._budgets.get(modality)
        if settings is None or budgets is None:
            return [None] * len(pictures)
        budgets = budgets.reshape(-1, 2)[first : first + len(pictures)]
        chosen: list[Selection | None] = []
        asked = [tuple(entry) for entry in budgets.tolist()]
        for number, (rows, layout, (keep, ratio)) in enumerate(zip(pictures, layouts, asked, strict=True)):
            budget = Budget(int(keep)) if keep else Budget(None, ratio)
            if settings.rows(layout, budget) >= len(rows):
                chosen.append(None)
                continue
            tokens = VisualTokens(rows, signals_of(number), layout)
            chosen.append(agreed(settings.method.select(tokens, budget)))
        return chosen


def kept_rows(rows: Tensor, selection: Selection | None) -> Tensor:
    """Gather the kept rows (K, D) of a picture's rows (N, D)."""
    if selection is None:
        return rows
    return rows[selection.indices] if selection.features is None else selection.features.to(rows.dtype)


def _announce(settings: Settings) -> None:
    logger.info("tokenprune: %s, %s for each picture", settings.method.name, settings.budget)
    if not stock.function("on_cpu")():
        logger.warning("tokenprune on this device is experimental: inside vLLM it has only ever run on a CPU")
