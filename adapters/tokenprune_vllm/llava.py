# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and other models of its class in vLLM. Kept rows are renumbered, as by `tokenprune.apply`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from tokenprune import Budget, Layout
from tokenprune.towers.image import TowerImage

from . import stock
from .clip_tower import WITH_CLASS_TOKEN, ClipTower
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .processing import prunable
from .projector import ReadProjector
from .tower_run import TOWER_SIGNALS, WITH_CLASS_ROW, EngineRun

CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
TOWERS = (CLIP, SIGLIP)


def square(n: int) -> Layout:
    """Return a square layout, as CLIP and SigLIP towers have, or one row if `n` is not a square number."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))


def one_image_each(n_prefix: int, shape: tuple[int, int]) -> list[TowerImage]:
    """Return the images of a tower that runs each as a sequence of its own, with a row for each token."""
    rows = torch.arange(shape[0] * shape[1]).view(shape)[:, n_prefix:, None]
    return [TowerImage(image, square(len(image))) for image in rows]


class LlavaInfo(PruningInfo):
    """Processing info of pruned LLaVA models."""

    family: ClassVar[str] = "llava"
    takes_fields: ClassVar[bool] = True

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """Return the signals of the tower; CLIP with the default feature selection has a class token.

        Raises
        ------
        EngineRefusedError
            If the tower is neither CLIP nor SigLIP.
        """
        tower = config.vision_config.model_type
        if tower not in TOWERS:
            raise EngineRefusedError(
                f"tokenprune: a LLaVA with a {tower!r} tower cannot be pruned inside vLLM; supported towers: "
                f"{', '.join(TOWERS)}"
            )
        without_attention = frozenset({"pre_features", "projector"})
        has_class_token = tower == CLIP and config.vision_feature_select_strategy == "default"
        if has_class_token and _has_one_feature_layer(config):
            return without_attention | WITH_CLASS_TOKEN
        return without_attention

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return the signals inside the tower, if exactly the patches of a single layer are projected."""
        tower = config.vision_config.model_type
        drops_first_row = config.vision_feature_select_strategy == "default"  # a class token, if there is one
        if not _has_one_feature_layer(config) or drops_first_row != (tower == CLIP):
            return frozenset()
        return WITH_CLASS_ROW if tower == CLIP else TOWER_SIGNALS

    @classmethod
    def tower_blocks(cls, config: Any) -> int:
        """Return the number of blocks up to the layer whose output is projected."""
        layer: int = config.vision_feature_layer
        return layer if layer >= 0 else int(config.vision_config.num_hidden_layers) + layer + 1


def _has_one_feature_layer(config: Any) -> bool:
    return isinstance(config.vision_feature_layer, int)


class LlavaPruning(PruningModel):
    """Shared implementation for vLLM's LLaVA models."""

    def watch(self, needs: frozenset[str]) -> None:
        """Register hooks on the tower and before the projector."""
        self._needs = needs
        self._tower = ClipTower(self, needs, lambda: self._recorded)
        if "projector" in needs:
            act = ACT2FN[self._hf_config.projector_hidden_act]
            linear = stock.part(self, "first_layer"), stock.part(self, "second_layer")
            self._projector = ReadProjector(linear[0], act, linear[1])

    def tower_signals(self, index: int) -> dict[str, Any]:
        """Return the signals of an image, which are computed on first use."""
        signals = {"projector": self.current_projector()} if "projector" in self._needs else {}
        return signals | {name: partial(self.signal, name, index) for name in self._needs - {"projector"}}

    def signal(self, name: str, index: int) -> Tensor:
        """Compute a signal of an image."""
        raise NotImplementedError

    def encode_images(self, original: Callable[..., Any], inputs: Any) -> Any:
        """Encode images in batches that fit the tower, and prune them."""
        if stock.is_embeddings(inputs):
            return original()
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        kept: list[Tensor] = []
        n_tokens = [self.tower_images(image) * self._patches for image in pixels]
        budgets = None if self._tower_cuts is None else self.item_budgets("image", slice(0, len(pixels)))
        for batch in self.tower_batches(n_tokens, budgets):
            batch_inputs = stock.inputs_like(inputs, pixel_values=pixels[batch])
            if sizes is not None:
                batch_inputs["image_sizes"] = sizes[batch]
            run = None if budgets is None else self._tower_run(budgets[batch])
            with self.cutting(run):
                images = original(batch_inputs)
            if run is not None:
                kept += list(images)
                continue
            layouts = self.layouts(batch_inputs, images)
            selections = self.select("image", images, layouts, self.tower_signals, batch.start)
            kept += [kept_rows(rows, selection) for rows, selection in zip(images, selections, strict=True)]
        return kept

    def _tower_run(self, budgets: Sequence[Budget]) -> EngineRun | None:
        """Return the run of the tower over images of equal budgets, which it cuts to equally many rows."""
        if self.pruning is None:
            return None
        n_prefix = int(self._hf_config.vision_config.model_type == CLIP)
        return EngineRun(self.pruning, partial(one_image_each, n_prefix), budgets, n_prefix)

    @property
    def _patches(self) -> int:
        """Number of patches of a tower image."""
        vision = self._hf_config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def tower_images(self, pixels: Tensor) -> int:
        """Return the number of tower images that an image consists of."""
        return 1

    def layouts(self, inputs: Any, images: Sequence[Tensor]) -> list[Layout]:
        """Return the layout of each image."""
        return [square(len(rows)) for rows in images]


class LlavaModel(LlavaPruning):
    """vLLM's LLaVA, with its images pruned if pruning is configured."""

    family: ClassVar[str] = "llava"
    info: ClassVar[type[PruningInfo]] = LlavaInfo

    def signal(self, name: str, index: int) -> Tensor:
        """Compute a signal of an image. Each image is one tower image."""
        return self._tower(name)[index]


PrunedLlava = prunable("PrunedLlava", LlavaModel, LlavaInfo)
