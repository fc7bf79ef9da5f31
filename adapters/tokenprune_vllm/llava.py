# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and models of its class in vLLM. Kept rows are renumbered, as `tokenprune.apply` does there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor
from transformers.activations import ACT2FN

from tokenprune import Layout

from . import stock
from .clip_tower import WITH_CLASS_TOKEN, ClipTower
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .processing import prunable
from .projector import ReadProjector

TOWERS = ("clip_vision_model", "siglip_vision_model")


def square(n: int) -> Layout:
    """A square grid where N is a square, as with every CLIP and SigLIP tower; else one row."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))


class LlavaInfo(PruningInfo):
    """Counts of LLaVA models, and what their towers can give."""

    family: ClassVar[str] = "llava"

    @classmethod
    def signals(cls, config: Any) -> frozenset[str]:
        """CLIP towers with the usual selection of features have a class token.

        Raises
        ------
        EngineRefusedError
            With a tower whose pictures are not a plain list of patches.
        """
        kind = config.vision_config.model_type
        if kind not in TOWERS:
            raise EngineRefusedError(
                f"tokenprune: a LLaVA with a {kind!r} tower cannot be pruned inside vLLM; towers: "
                f"{', '.join(TOWERS)}"
            )
        plain = frozenset({"pre_features", "projector"})
        has_class_token = kind == "clip_vision_model" and config.vision_feature_select_strategy == "default"
        return plain | WITH_CLASS_TOKEN if has_class_token and _one_layer(config) else plain


def _one_layer(config: Any) -> bool:
    return isinstance(config.vision_feature_layer, int)


class LlavaPruning(PruningModel):
    """What the LLaVA models of vLLM have in common."""

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks on the tower and before the projector."""
        self._needs = needs
        self._tower = ClipTower(self, needs, lambda: self._seen)
        if "projector" in needs:
            act = ACT2FN[self._hf_config.projector_hidden_act]
            layers = stock.part(self, "first_layer"), stock.part(self, "second_layer")
            self._projector = ReadProjector(layers[0], act, layers[1])

    def tower_signals(self, number: int) -> dict[str, Any]:
        """Signals of one picture, computed when asked for."""
        given = {"projector": self.projector_now()} if "projector" in self._needs else {}
        return given | {name: partial(self.signal, name, number) for name in self._needs - {"projector"}}

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture."""
        raise NotImplementedError

    def images(self, vllm: Callable[..., Any], given: Any) -> Any:
        """Encode, as many at once as the tower bears; prune."""
        if stock.is_ready_made(given):
            return vllm()
        pixels, sizes = given["pixel_values"], given.get("image_sizes")
        kept: list[Tensor] = []
        for part in self.parts([self.tower_images(picture) * self._patches for picture in pixels]):
            some = stock.some_of(given, pixel_values=pixels[part])
            if sizes is not None:
                some["image_sizes"] = sizes[part]
            pictures = vllm(some)
            layouts = self.layouts(some, pictures)
            chosen = self.select("image", pictures, layouts, self.tower_signals, part.start)
            kept += [kept_rows(rows, one) for rows, one in zip(pictures, chosen, strict=True)]
        return kept

    @property
    def _patches(self) -> int:
        """Patches of a tower image."""
        vision = self._hf_config.vision_config
        return int(vision.image_size // vision.patch_size) ** 2

    def tower_images(self, pixels: Tensor) -> int:
        """How many images the tower gets of one picture."""
        return 1

    def layouts(self, given: Any, pictures: Sequence[Tensor]) -> list[Layout]:
        """Layout of each picture."""
        return [square(len(rows)) for rows in pictures]


class LlavaModel(LlavaPruning):
    """vLLM's LLaVA; its pictures are pruned where that is configured."""

    family: ClassVar[str] = "llava"

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture: every picture is one tower image."""
        return self._tower(name)[number]


PrunedLlava = prunable("PrunedLlava", LlavaModel, LlavaInfo)
