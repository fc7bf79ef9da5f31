# SPDX-License-Identifier: Apache-2.0
"""Let a model, pruned or not, answer questions about pictures in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tokenprune import ImageReport, PruningHandle
from tokenprune_evaluation.costs import kv_cache_bytes
from tokenprune_evaluation.prompts import placed
from tokenprune_evaluation.settings import UNPRUNED, Setting

ANSWER_TOKENS = 6  # the longest right answers have three, the end included


@dataclass(frozen=True)
class Answered:
    """The answer to a question, and what it cost.

    `rows` enter each of the language model's layers; `n_visual` of the image's `n_visual_before` tokens
    remain at the end, and `kept` are their slots (-1: a new row), None if the image was left alone.
    `kv_bytes` is the question's share of what the cache held for its batch after the prefill.
    """

    text: str
    rows: tuple[int, ...]
    n_visual: int
    n_visual_before: int
    kv_bytes: float
    kept: tuple[int, ...] | None = None


@torch.no_grad()
def answer_batch(
    model: Any,
    processor: Any,
    batch: dict[str, Any],
    handle: PruningHandle | None = None,
    setting: Setting = UNPRUNED,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[Answered]:
    """Answer a batch of questions greedily.

    Parameters
    ----------
    model, processor
        As `from_pretrained` returns them; the model may be pruned.
    batch
        Model inputs, one question in each row.
    handle
        The handle of the pruned model, which reports what was kept; None if the model is not pruned.
    setting
        The setting that is applied to the model, and that the inputs are prepared for.
    max_new_tokens
        Maximum length of the answers.
    """
    inputs = placed(model, setting.prepared(model, batch))
    batch_size, length = inputs["input_ids"].shape
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    texts = processor.batch_decode(output[:, length:], skip_special_tokens=True)
    lengths = inputs["attention_mask"].sum(1).tolist()
    visual_before, visual = _visual_tokens(model, batch), _visual_tokens(model, inputs)
    n_layers = model.config.text_config.num_hidden_layers
    report = None if handle is None else handle.last
    if report is None:
        value_bytes = model.get_input_embeddings().weight.element_size()
        kv_bytes = float(kv_cache_bytes(model.config.text_config, length, value_bytes))
        images: dict[int, ImageReport] = {}
    else:
        kv_bytes = report.kv_bytes / batch_size
        images = {image.row: image for image in report.images}
    answers = []
    for row in range(batch_size):
        image = images.get(row)
        entering = [visual[row]] * n_layers if image is None else image.rows_entering(n_layers)
        answers.append(
            Answered(
                text=texts[row].strip(),
                rows=tuple(lengths[row] - visual[row] + n for n in entering),
                n_visual=visual[row] if image is None else image.n_after,
                n_visual_before=visual_before[row],
                kv_bytes=kv_bytes,
                kept=None if image is None or image.kept is None else tuple(image.kept.tolist()),
            )
        )
    return answers


def _visual_tokens(model: Any, inputs: dict[str, Any]) -> list[int]:
    """Return the number of visual tokens in each row."""
    counts: list[int] = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    return counts
