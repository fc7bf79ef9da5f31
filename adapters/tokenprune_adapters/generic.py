# SPDX-License-Identifier: Apache-2.0
"""The adapter for tested families without an adapter of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import tokenprune

from .authoring import FAMILIES, Family, FamilyAdapter, Specimen
from .tiny import specimens

TINY = (
    "aria",
    "aya-vision",
    "cohere-compass",
    "cohere2-vision",
    "cosmos3-edge",
    "cosmos3-omni",
    "deepseek-ocr2",
    "deepseek-vl",
    "deepseek-vl-hybrid",
    "emu3",
    "ernie-4.5-vl",
    "exaone-4.5",
    "gemma-3",
    "gemma-4-unified",
    "glm-ocr",
    "got-ocr2",
    "idefics2",
    "idefics3",
    "internvl",
    "janus",
    "kimi-k2.5",
    "lfm2-vl",
    "lighton-ocr",
    "llava-next-video",
    "mistral-3",
    "muse-glimmer",
    "ovis2",
    "paddleocr-vl",
    "paligemma",
    "qianfan-ocr",
    "smolvlm",
    "step-3.7",
    "video-llama3",
    "vip-llava",
)
NEWER = {  # by the first tested version of transformers that has them in the form that can be pruned
    (5, 20): (
        "hyperclovax-vision-v2",
        "minicpm-v-4.6",
        "minicpm-v-4.7",
        "minimax-m3",
        "molmo2",
        "muse-spark",
    ),
    (5, 23): ("granite-docling", "lfm3-vl", "minicpm-ocr", "video-llava"),
    (5, 24): ("apertus-1.5",),
}
WITH_TIMM = ("fast-vlm", "gemma-3n", "perception-lm")  # their towers are timm's


class GenericAdapter(FamilyAdapter):
    """Adapter for the families in `FAMILIES`."""

    name: ClassVar[str] = "generic"
    families: ClassVar[Mapping[str, Family]] = FAMILIES

    @classmethod
    def specimens(cls) -> tuple[Specimen, ...]:
        """One tiny model of each family in the table, but those whose pictures cannot be told apart."""
        newer = [specimen for least, names in NEWER.items() for specimen in specimens(*names, least=least)]
        return (*specimens(*TINY), *newer, *specimens(*WITH_TIMM, package="timm"))


@tokenprune.hookimpl
def tokenprune_adapters() -> list[type[tokenprune.ModelAdapter]]:
    """Deliver the adapter."""
    return [GenericAdapter]
