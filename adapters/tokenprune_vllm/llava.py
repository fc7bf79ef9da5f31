# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and other models of its class in vLLM. Kept rows are renumbered, as by `tokenprune.apply`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from tokenprune import Layout
from tokenprune.towers.image import TowerImage

from . import stock
from .clip_tower import WITH_CLASS_TOKEN, ClipTower
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .processing import prunable
from .projector import ReadProjector
from .settings import Settings
from .tower_cuts import TowerCuts
from .tower_run import TOWER_SIGNALS, WITH_CLASS_ROW, EngineRun

TOWERS = ("clip_vision_model", "siglip_vision_model")


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
        has_class_token = tower == "clip_vision_model" and config.vision_feature_select_strategy == "default"
        if has_class_token and _has_one_feature_layer(config):
            return without_attention | WITH_CLASS_TOKEN
        return without_attention

    @classmethod
    def tower_signals(cls, config: Any) -> frozenset[str]:
        """Return the signals inside the tower, if a single layer's output is projected."""
        if cls.family != "llava" or not _has_one_feature_layer(config):
            return frozenset()
        is_clip = config.vision_config.model_type == "clip_vision_model"
        return WITH_CLASS_ROW if is_clip else TOWER_SIGNALS

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
        if self._tower_cuts is not None:
            return self._encode_cut(original, inputs, n_tokens, self._tower_cuts)
        for batch in self.tower_batches(n_tokens):
            batch_inputs = stock.inputs_like(inputs, pixel_values=pixels[batch])
            if sizes is not None:
                batch_inputs["image_sizes"] = sizes[batch]
            images = original(batch_inputs)
            layouts = self.layouts(batch_inputs, images)
            selections = self.select("image", images, layouts, self.tower_signals, batch.start)
            kept += [kept_rows(rows, selection) for rows, selection in zip(images, selections, strict=True)]
        return kept

    def cut_tower(self, settings: Settings) -> TowerCuts:
        """Register hooks on the blocks of the tower."""
        schedule = settings.method.schedule
        if schedule is None:
            raise EngineRefusedError("tokenprune: a cut inside the vision tower needs a layer")
        blocks = stock.part(self, "tower_blocks").wrapped
        return TowerCuts(blocks, schedule.boundaries(settings.n_blocks), stock.arguments(self.family))

    def _encode_cut(
        self, original: Callable[..., Any], inputs: Any, n_tokens: Sequence[int], cuts: TowerCuts
    ) -> list[Tensor]:
        """Encode images in batches of equal budgets, each of which the tower cuts to equally many rows."""
        pixels, settings = inputs["pixel_values"], self.pruning
        budgets = self.item_budgets("image", slice(0, len(pixels)))
        has_class_row = self._hf_config.vision_config.model_type == "clip_vision_model"
        kept: list[Tensor] = []
        for batch in self.tower_batches(n_tokens, budgets):
            run = None
            if budgets is not None and settings is not None:
                of_batch = budgets[batch]
                images = functools.partial(one_image_each, int(has_class_row))
                cut = settings.cut(of_batch[0])
                run = EngineRun(cut, settings.n_blocks, images, of_batch, int(has_class_row))
            with cuts.running(run):
                kept += list(original(stock.inputs_like(inputs, pixel_values=pixels[batch])))
        return kept

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
