# SPDX-License-Identifier: Apache-2.0
"""The worker's side: a picture's rows leave the tower and the projector, and fewer of them go on.

Mixed in before a model's own class, of which everything is kept. Without a configuration nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.platforms import current_platform

from tokenprune import Budget, Layout, Selection, VisualTokens

from .errors import EngineRefusedError, refusing
from .processing import budget_field
from .projector import ReadProjector
from .ranks import agreed
from .settings import Settings

logger = init_logger("vllm.tokenprune")

MODALITIES = ("image", "video")


class PruningModel:
    """Mixed in before a vLLM model class. `pruning` is None where nothing was asked for."""

    pruning: Settings | None = None
    _projector: ReadProjector

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        with refusing():
            settings = Settings.read(vllm_config.model_config.hf_config)
            if settings is not None:
                self.check_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._budgets: dict[str, Tensor | None] = {}
        self._seen: dict[str, Any] = {}
        self.pruning = settings
        self._most_at_once: int = vllm_config.scheduler_config.max_num_batched_tokens
        if settings is not None:
            self.watch(settings.method.needs)
            _announce(settings)

    def check_engine(self, vllm_config: Any) -> None:
        """Refuse engine options that go against pruning."""
        if vllm_config.model_config.multimodal_config.video_pruning_rate:
            raise EngineRefusedError(
                "tokenprune: --video-pruning-rate is vLLM's own pruning; leave one of the two out"
            )
        if getattr(vllm_config.lora_config, "enable_tower_connector_lora", False):
            raise EngineRefusedError(
                "tokenprune: LoRA in the tower or the projector is not supported; start without "
                "--enable-tower-connector-lora"
            )
        if vllm_config.compilation_config.compile_mm_encoder:
            raise EngineRefusedError(
                "tokenprune: compile_mm_encoder is not supported; what the tower computes must be seen"
            )

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks where the signals `needs` pass; what they catch goes to `self._seen`."""
        raise NotImplementedError

    def projector_now(self) -> Any:
        """The projector with the weights of this moment; looked at once a run of the tower."""
        if "projector" not in self._seen:
            self._seen["projector"] = self._projector.now()
        return self._seen["projector"]

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Rows of the pictures of a step, fewer of them where that was asked for."""
        if self.pruning is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        self._budgets = {modality: kwargs.pop(budget_field(modality), None) for modality in MODALITIES}
        try:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
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
        """Choose the rows of each picture that go on; None: all of them.

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
    """Rows (K, D) that go on of a picture's (N, D)."""
    if selection is None:
        return rows
    return rows[selection.indices] if selection.features is None else selection.features.to(rows.dtype)


def _announce(settings: Settings) -> None:
    logger.info("tokenprune: %s, %s for each picture", settings.method.name, settings.budget)
    if not current_platform.is_cpu():
        logger.warning("tokenprune on this device is experimental: inside vLLM it has only ever run on a CPU")
