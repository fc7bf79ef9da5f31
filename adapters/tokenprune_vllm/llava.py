# SPDX-License-Identifier: Apache-2.0
"""LLaVA-1.5 and models of its class in vLLM. Kept rows are renumbered, as `tokenprune.apply` does there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

from torch import Tensor
from transformers.activations import ACT2FN
from vllm.model_executor.models import llava

from tokenprune import Layout

from .clip_tower import WITH_CLASS_TOKEN, ClipTower
from .errors import EngineRefusedError
from .info import PruningInfo
from .model import PruningModel, kept_rows
from .processing import PruningProcessor, prunable
from .projector import ReadProjector

TOWERS = ("clip_vision_model", "siglip_vision_model")


def square(n: int) -> Layout:
    """A square grid where N is a square, as with every CLIP and SigLIP tower; else one row."""
    side = round(n**0.5)
    return Layout((1, side, side) if side * side == n else (1, 1, n))


class LlavaSignals(PruningInfo):
    """What the towers of LLaVA models can give."""

    family: ClassVar[str] = "llava"

    @classmethod
    def signals(cls, hf_config: Any) -> frozenset[str]:
        """CLIP towers with the usual selection of features have a class token.

        Raises
        ------
        EngineRefusedError
            With a tower whose pictures are not a plain list of patches.
        """
        kind = hf_config.vision_config.model_type
        if kind not in TOWERS:
            raise EngineRefusedError(
                f"tokenprune: a LLaVA with a {kind!r} tower cannot be pruned inside vLLM; towers: "
                f"{', '.join(TOWERS)}"
            )
        plain = frozenset({"pre_features", "projector"})
        has_class_token = (
            kind == "clip_vision_model" and hf_config.vision_feature_select_strategy == "default"
        )
        return plain | WITH_CLASS_TOKEN if has_class_token and _one_layer(hf_config) else plain


def _one_layer(hf_config: Any) -> bool:
    return isinstance(hf_config.vision_feature_layer, int)


class LlavaPruning(PruningModel):
    """What the LLaVA models of vLLM have in common."""

    def watch(self, needs: frozenset[str]) -> None:
        """Put hooks on the tower and before the projector."""
        self._needs = needs
        self._tower = ClipTower(self, needs, lambda: self._seen)

    @cached_property
    def _projector(self) -> ReadProjector:
        module = self.multi_modal_projector  # type: ignore[attr-defined]
        act = ACT2FN[self.config.projector_hidden_act]  # type: ignore[attr-defined]
        return ReadProjector(module.linear_1, act, module.linear_2)

    def tower_signals(self, number: int) -> dict[str, Any]:
        """Signals of one picture, computed when asked for."""
        given = {"projector": self.projector_now()} if "projector" in self._needs else {}
        return given | {name: partial(self.signal, name, number) for name in self._needs - {"projector"}}

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture."""
        raise NotImplementedError

    def _process_image_input(self, image_input: Any) -> Any:
        if self.pruning is None or image_input["type"] == "image_embeds":
            return super()._process_image_input(image_input)  # type: ignore[misc]
        tokens = [self.tower_images(pixels) * self._patches for pixels in image_input["pixel_values"]]
        kept: list[Tensor] = []
        for part in self.parts(tokens):
            given = {"type": image_input["type"], "pixel_values": image_input["pixel_values"][part]}
            if image_input.get("image_sizes") is not None:
                given["image_sizes"] = image_input["image_sizes"][part]
            pictures = super()._process_image_input(given)  # type: ignore[misc]
            layouts = self.layouts(given, pictures)
            chosen = self.select("image", pictures, layouts, self.tower_signals, part.start)
            kept += [kept_rows(rows, one) for rows, one in zip(pictures, chosen, strict=True)]
        return kept

    @property
    def _patches(self) -> int:
        """Patches of a tower image."""
        vision = self.config.vision_config  # type: ignore[attr-defined]
        return int(vision.image_size // vision.patch_size) ** 2

    def tower_images(self, pixels: Tensor) -> int:
        """How many images the tower gets of one picture."""
        return 1

    def layouts(self, image_input: Any, pictures: Sequence[Tensor]) -> list[Layout]:
        """Layout of each picture."""
        return [square(len(rows)) for rows in pictures]


class PrunedLlavaInfo(LlavaSignals, llava.LlavaProcessingInfo):  # type: ignore[misc]
    """Counts of a LLaVA whose pictures are pruned."""


class PrunedLlavaProcessor(PruningProcessor, llava.LlavaMultiModalProcessor):  # type: ignore[misc]
    """Placeholders of a LLaVA whose pictures are pruned."""


@prunable(llava.LlavaForConditionalGeneration, PrunedLlavaInfo, PrunedLlavaProcessor)
class PrunedLlava(LlavaPruning, llava.LlavaForConditionalGeneration):  # type: ignore[misc]
    """vLLM's LLaVA; its pictures are pruned where that is configured."""

    def signal(self, name: str, number: int) -> Tensor:
        """One signal of one picture: every picture is one tower image."""
        return self._tower(name)[number]
