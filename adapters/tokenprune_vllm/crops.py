# SPDX-License-Identifier: Apache-2.0
"""Models whose images are one or more crops with the same number of tokens, each with a budget of its own.

A video is a sequence of frames, which are treated like crops. Kept rows are renumbered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune import Layout, LinearForm

from . import stock
from .info import PruningInfo
from .llava import square
from .model import PruningModel, kept_rows
from .projector import PlainProjector


class CropsInfo(PruningInfo):
    """Processing info of a pruned model whose images are crops."""

    crop_counts: ClassVar[Mapping[str, str]]  # processed inputs with the number of crops of an item
    crop_tokens: ClassVar[Callable[[Any], int]]  # number of tokens of a crop, from the configuration

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Return the signals of the tower; its attention is between rows that are later merged."""
        return frozenset({"pre_features", "projector"})

    def largest(self) -> Layout:
        """Return the layout of a crop: each has a budget of its own."""
        return square(type(self).crop_tokens(self.config))

    def most_tokens(self) -> int:
        """Return the number of tokens of the image with the most crops."""
        return self.vllm_max_image_tokens()

    def pieces(self, modality: str, items: Any, index: int, n: int) -> list[Layout]:
        """Return the layouts of an item's crops."""
        return [self.largest_layout] * (n // len(self.largest_layout))

    def n_unpruned(self, modality: str, item: Any) -> int:
        """Return the number of tokens of an item from its number of crops."""
        crops = stock.view("worker_field", item[self.crop_counts[modality]]).value
        return int(crops) * len(self.largest_layout)


class CropsModel(PruningModel):
    """A vLLM model whose images are crops, pruned if pruning is configured."""

    crop_tokens: ClassVar[Callable[[Any], int]]  # as in `CropsInfo`

    def watch(self, needs: frozenset[str]) -> None:
        """Register a hook on the norm of the projector, whose inputs match tokens one to one."""
        self._needs = needs
        self.parts = {name: stock.part(self, name) for name in stock.FAMILIES[self.family].parts}
        if "pre_features" in needs:
            self.parts["norm"].wrapped.register_forward_pre_hook(
                lambda module, args: self._recorded.update(rows=args[0].flatten(0, 1))
            )
        if "projector" in needs:
            self._projector = PlainProjector(self.parts["projector"].wrapped, self.read_form)

    def read_form(self) -> LinearForm | None:
        """Return the weights of the row-wise part of the projector."""
        raise NotImplementedError

    def crop(self) -> Layout:
        """Return the layout of a crop."""
        return square(type(self).crop_tokens(self._hf_config))

    def encode_images(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode images or videos in batches that fit the tower, and prune each crop."""
        if stock.is_embeddings(inputs):
            return original()
        crop, modality = self.crop(), stock.modality_of(inputs)
        counts = [int(n) for n in inputs["num_patches"]]
        kept: list[Tensor] = []
        for batch in self.tower_batches([n * len(crop) for n in counts]):
            crops = slice(sum(counts[: batch.start]), sum(counts[: batch.stop]))
            batch_inputs = stock.inputs_like(
                inputs, pixel_values=inputs["pixel_values"][crops], num_patches=inputs["num_patches"][batch]
            )
            pieces = [piece for rows in original(batch_inputs) for piece in rows.split(len(crop))]
            layouts = [crop] * len(pieces)
            selections = self.select(
                modality, pieces, layouts, self._signals, batch.start, n_pieces=counts[batch]
            )
            rows = map(kept_rows, pieces, selections)
            kept += [torch.cat([next(rows) for _ in range(n)]) for n in counts[batch]]
        return kept

    def _signals(self, index: int) -> Mapping[str, Any]:
        """Return the signals of a crop, which are computed on first use."""
        signals: dict[str, Any] = {}
        if "projector" in self._needs:
            signals["projector"] = self.current_projector()
        if "pre_features" in self._needs:
            signals["pre_features"] = partial(self.pre_features, index)
        return signals

    def pre_features(self, index: int) -> Tensor:
        """Return the inputs of the row-wise part of the projector for a crop, (N, D_v)."""
        n = len(self.crop())
        rows: Tensor = self._recorded["rows"][index * n : (index + 1) * n]
        return rows
