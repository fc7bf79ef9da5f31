# SPDX-License-Identifier: Apache-2.0
"""The embedded model: a small LLaVA, part of the package, that answers questions about drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


def embedded_model_path() -> Path:
    """Return the directory of the embedded model, to pass to `from_pretrained`."""
    return Path(__file__).parent / "llava"


def load_embedded_model() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load the embedded model in evaluation mode and float32, and its processor, without network access."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = embedded_model_path()
    model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
    return model, AutoProcessor.from_pretrained(folder, local_files_only=True)
