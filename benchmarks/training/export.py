# SPDX-License-Identifier: Apache-2.0
"""Export a trained model to files that stock transformers can load, and load them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration

from benchmarks.training.tokenizer import make_processor

_MAX_ANSWER_TOKENS = 4  # the longest answers are two words and </s>


def export(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write weights (rounded to float16), configuration, tokenizer and processor to a folder.

    The configuration sets float32, so `from_pretrained` computes in float32 with the rounded weights by
    default.
    """
    text = model.config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        max_new_tokens=_MAX_ANSWER_TOKENS,
        do_sample=False,
    )
    model.to(torch.float16).save_pretrained(folder)
    model.to(torch.float32)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    make_processor().save_pretrained(folder)


def reload(folder: Path) -> LlavaForConditionalGeneration:
    """Load an exported model, in evaluation mode."""
    return LlavaForConditionalGeneration.from_pretrained(folder).eval()
