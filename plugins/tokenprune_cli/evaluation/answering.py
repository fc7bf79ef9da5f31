# SPDX-License-Identifier: Apache-2.0
"""Letting a model, pruned or not, answer questions about pictures in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenprune_embedded import Question

from tokenprune import ImageReport, PruningHandle
from tokenprune_cli.evaluation.kv_cache import kv_cache_bytes
from tokenprune_cli.evaluation.prompts import placed
from tokenprune_cli.evaluation.settings import UNPRUNED, Setting

ANSWER_TOKENS = 6  # the longest right answers have three, the end included


@dataclass(frozen=True)
class Batch:
    """Questions with the numbers of their scenes, and the model inputs made of them."""

    items: tuple[tuple[int, Question], ...]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One question answered.

    `rows` enter each of the language model's layers; `n_visual` of the image's `n_visual_before` are left in
    the end, and `kept` are their slots (-1: a made row), None where the image was left alone. `kv_bytes` is
    the question's share of what the cache held for its batch after the prefill.
    """

    scene: int
    question: Question
    text: str
    rows: tuple[int, ...]
    n_visual: int
    n_visual_before: int
    kv_bytes: float
    kept: tuple[int, ...] | None = None

    @property
    def is_right(self) -> bool:
        """Whether the decoded text is the right answer, exactly."""
        return self.text == self.question.answer


@torch.no_grad()
def answer_batch(
    model: Any,
    processor: Any,
    batch: Batch,
    handle: PruningHandle | None = None,
    setting: Setting = UNPRUNED,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[Answered]:
    """Answer a batch greedily.

    Parameters
    ----------
    model, processor
        As `from_pretrained` gives them; the model may be pruned.
    batch
        Questions and the inputs made of them.
    handle
        The handle of the pruned model, to read off what was kept; None: the model is not pruned.
    setting
        What the inputs are prepared for; the model is already under it.
    max_new_tokens
        Length limit of the answers.
    """
    before = (batch.inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    inputs = placed(model, setting.prepared(model, batch.inputs))
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    texts = processor.batch_decode(output[:, length:], skip_special_tokens=True)
    lengths = inputs["attention_mask"].sum(1).tolist()
    visual = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    n_layers = model.config.text_config.num_hidden_layers
    report = None if handle is None else handle.last
    if report is None:
        value_bytes = model.get_input_embeddings().weight.element_size()
        share = float(kv_cache_bytes(model.config.text_config, length, value_bytes))
        images: dict[int, ImageReport] = {}
    else:
        share = report.kv_bytes / len(batch.items)
        images = {image.row: image for image in report.images}
    answers = []
    for row, (scene, question) in enumerate(batch.items):
        image = images.get(row)
        entering = [visual[row]] * n_layers if image is None else image.rows_entering(n_layers)
        answers.append(
            Answered(
                scene=scene,
                question=question,
                text=texts[row].strip(),
                rows=tuple(lengths[row] - visual[row] + n for n in entering),
                n_visual=visual[row] if image is None else image.n_after,
                n_visual_before=before[row],
                kv_bytes=share,
                kept=None if image is None or image.kept is None else tuple(image.kept.tolist()),
            )
        )
    return answers
