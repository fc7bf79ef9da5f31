# SPDX-License-Identifier: Apache-2.0
"""The front end's side: how many placeholders a picture gets, names of cached things, what requests ask.

Mixed in before a model's own classes. Placeholders are counted before the tower runs, by `Method.n_keep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from vllm.logger import init_logger
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptReplacement

from tokenprune import Budget

from .errors import refusing
from .info import PruningInfo
from .settings import KEY, without_ours

logger = init_logger("vllm.tokenprune")
REMEMBERED = 4096  # pictures whose token counts are remembered, for the log


def budget_field(modality: str) -> str:
    """Name of what travels to the worker with each picture: (keep, 0) or (0, keep_ratio)."""
    return f"tokenprune_{modality}"


class PruningProcessor:
    """Mixed in before a model's multi-modal processor."""

    info: Any
    _reports = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_whole: dict[str, int] = {}  # tokens of pictures, by their names in vLLM's caches
        with refusing():
            self.info.pruning.rows_allowed(self.info.most_tokens, self.info.pruning.budget)

    def _call_hf_processor(self, hf_data: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        return super()._call_hf_processor(hf_data, without_ours(hf_kwargs))  # type: ignore[misc]

    def _postprocess_hf_mm_data(self, mm_inputs: Any, hf_processor_mm_kwargs: Any, processed: Any) -> Any:
        """Send the budget along with each picture."""
        done = super()._postprocess_hf_mm_data(  # type: ignore[misc]
            mm_inputs, hf_processor_mm_kwargs, processed
        )
        budget = self.info.asked(hf_processor_mm_kwargs)
        entry = [float(budget.keep or 0), float(budget.keep_ratio or 0)]
        for modality, names in PER_PICTURE.items():
            n = next((len(done[name]) for name in names if name in done), 0)
            if n and modality in self.info.modalities and f"{modality}_embeds" not in done:
                done[budget_field(modality)] = torch.tensor([entry] * n, dtype=torch.float64)
        return done

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> dict[str, Any]:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)  # type: ignore[misc]
        return {
            **fields,
            **{
                budget_field(modality): MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
                for modality in self.info.modalities
            },
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        """The model's own placeholders, but no more of them than rows stay."""
        budget = self.info.asked(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, hf_processor_mm_kwargs, out_mm_kwargs
        )
        return [
            PromptReplacement(
                modality=update.modality,
                target=update.target,
                replacement=self._shortened(update, mm_items, budget),
            )
            if update.modality in self.info.modalities and _has_pixels(mm_items, update.modality)
            else update
            for update in updates
        ]

    def _shortened(self, update: Any, mm_items: Any, budget: Budget) -> Callable[[int], list[int]]:
        def replacement(number: int) -> list[int]:
            full: list[int] = update.replacement(number)
            self.info.check_size(update.modality, len(full))
            layout = self.info.layout(update.modality, mm_items, number, len(full))
            return full[: self.info.pruning.rows_allowed(layout, budget)]

        return replacement

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Inputs vLLM rehearses with when it starts; they are not reported."""
        self._reports = False
        try:
            return super().get_dummy_mm_inputs(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._reports = True

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a request's pictures, and say in the log how many rows they had and have."""
        made = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        if self._reports:
            for modality in self.info.modalities:
                if made["mm_placeholders"].get(modality) and _has_pixels(inputs.mm_data_items, modality):
                    self._report(made, modality)
        return made

    def _report(self, made: Any, modality: str) -> None:
        names = made["mm_hashes"][modality]
        for name, item in zip(names, made["mm_kwargs"][modality], strict=True):
            if item is not None:  # None: vLLM has it already
                self._n_whole[name] = self.info.n_whole(modality, item)
        while len(self._n_whole) > REMEMBERED:
            self._n_whole.pop(next(iter(self._n_whole)))
        known = [self._n_whole.get(name) for name in names]
        logger.info(
            "tokenprune: %s kept %d of %s rows of %d %s%s",
            self.info.pruning.method.name,
            sum(place.length for place in made["mm_placeholders"][modality]),
            "?" if None in known else sum(n or 0 for n in known),
            len(names),
            modality,
            "" if len(names) == 1 else "s",
        )

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Names under which vLLM caches inputs, tower outputs and keys and values of a picture's rows."""
        self.info.asked(inputs.hf_processor_mm_kwargs)  # refuses a request before any work
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        digest = self.info.pruning.digest
        return {
            modality: [f"{name}-tokenprune-{digest}" for name in names]
            if modality in self.info.modalities
            else names
            for modality, names in hashes.items()
        }


# what the processors of these families return one entry a picture of
PER_PICTURE = {
    "image": ("image_grid_thw", "image_sizes", "pixel_values"),
    "video": ("video_grid_thw",),
}


def _has_pixels(mm_items: Any, modality: str) -> bool:
    """Whether a request brings pictures, and not their rows ready made (which stay as they are)."""
    from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems

    return not isinstance(mm_items.get(modality), (EmbeddingItems, DictEmbeddingItems))


def prunable(model: type, info: Any, processor: Any) -> Callable[[Any], Any]:
    """Register our processing for a subclass of vLLM's `model`; its own goes on where nothing is asked."""
    stock = model._processor_factory  # type: ignore[attr-defined]

    def make_info(context: Any) -> Any:
        asked = getattr(context.model_config.hf_config, KEY, None) is not None
        return info(context) if asked else stock.info(context)

    def make_processor(made: Any, dummy_inputs: Any) -> Any:
        return (processor if isinstance(made, PruningInfo) else stock.processor)(made, dummy_inputs)

    registered: Callable[[Any], Any] = MULTIMODAL_REGISTRY.register_processor(
        make_processor, info=make_info, dummy_inputs=stock.dummy_inputs
    )
    return registered
