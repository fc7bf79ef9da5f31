# SPDX-License-Identifier: Apache-2.0
"""Answer a batch of questions with the unpruned model and under settings; measure divergences.

For the divergence each model gets the prompt, and then the unpruned model's answer token by token in place of
its own, in `generate`. Methods see the prompt alone, as they do when the model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenprune_evaluation.answering import answer_batch
from tokenprune_evaluation.prompts import placed
from tokenprune_evaluation.settings import UNPRUNED, Setting
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from .losses import Answer


@dataclass(frozen=True)
class Reference:
    """The unpruned model's answers to a batch: texts, token ids (B, T), and T distributions (B, vocabulary).

    `lengths` are the tokens of each answer, the end included. `distributions` is empty if no divergence is
    measured.
    """

    answers: list[Answer]
    ids: Tensor
    lengths: list[int]
    distributions: list[Tensor]

    def rows(self, rows: slice) -> Reference:
        """Return some rows of the batch."""
        return Reference(
            self.answers[rows],
            self.ids[rows],
            self.lengths[rows],
            [step[rows] for step in self.distributions],
        )

    def repeated(self, times: int) -> Reference:
        """Return the only row of the batch several times."""
        return Reference(
            self.answers * times,
            self.ids.repeat(times, 1),
            self.lengths * times,
            [step.repeat(times, 1) for step in self.distributions],
        )


class Recorder(LogitsProcessor):  # type: ignore[misc]
    """Records the next token's distribution at each step, and may force the tokens of an answer.

    Parameters
    ----------
    forced
        Token ids (B, T) that are generated whatever the model says; None: the model's own.
    """

    def __init__(self, forced: Tensor | None = None) -> None:
        self.forced = forced
        self.distributions: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record softmax(scores) and return the scores, or those that leave the forced token alone."""
        step = len(self.distributions)
        self.distributions.append(torch.softmax(scores.float(), dim=-1))
        if self.forced is None:
            return scores
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, self.forced[:, step : step + 1].to(scores.device), 0.0)


@torch.no_grad()
def answer_unpruned(
    model: Any, processor: Any, batch: dict[str, Any], max_new_tokens: int, with_distributions: bool
) -> Reference:
    """Answer a batch with the unpruned model."""
    recorder = Recorder()
    inputs = placed(model, batch)
    output = _generate(model, inputs, max_new_tokens, recorder if with_distributions else None)
    ids = output[:, inputs["input_ids"].shape[1] :]
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    answers = [Answer(text.strip()) for text in texts]
    return Reference(answers, ids, _lengths(model, ids), recorder.distributions)


@torch.no_grad()
def answer_pruned(
    model: Any,
    processor: Any,
    batch: dict[str, Any],
    setting: Setting,
    reference: Reference,
    max_new_tokens: int,
    seed: int,
) -> list[Answer]:
    """Answer a batch under a setting, and measure the divergence if the reference has distributions.

    Raises
    ------
    tokenprune.TokenPruneError
        If the model cannot run the batch under the setting.
    """
    with setting.applied(model, seed) as handle:
        answers = answer_batch(model, processor, batch, handle, setting, max_new_tokens)
        divergences: list[float | None] = [None] * len(answers)
        if reference.distributions:
            divergences = list(_divergences(model, placed(model, batch), reference))
    return [Answer(answer.text, value) for answer, value in zip(answers, divergences, strict=True)]


def answer_again(
    model: Any, processor: Any, batches: Sequence[dict[str, Any]], reference: Reference, max_new_tokens: int
) -> list[Answer]:
    """Answer the questions of a batch with the unpruned model once more, divided into other batches."""
    answers: list[Answer] = []
    for batch in batches:
        part = reference.rows(slice(len(answers), len(answers) + len(batch["input_ids"])))
        answers += answer_pruned(model, processor, batch, UNPRUNED, part, max_new_tokens, 0)
    return answers


def _divergences(model: Any, inputs: dict[str, Any], reference: Reference) -> list[float]:
    """Return the mean total variation along each unpruned answer."""
    recorder = Recorder(reference.ids)
    _generate(model, inputs, len(reference.distributions), recorder)
    pairs = zip(recorder.distributions, reference.distributions, strict=False)  # up to the last answer's end
    distances = torch.stack([0.5 * (ours - theirs).abs().sum(-1) for ours, theirs in pairs], dim=1)
    return [min(1.0, float(distances[row, :length].mean())) for row, length in enumerate(reference.lengths)]


def _generate(
    model: Any, inputs: dict[str, Any], max_new_tokens: int, recorder: Recorder | None = None
) -> Tensor:
    processors = LogitsProcessorList([] if recorder is None else [recorder])
    output: Tensor = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=processors
    )
    return output


def _lengths(model: Any, ids: Tensor) -> list[int]:
    """Return the number of tokens of each answer up to its end."""
    end = model.generation_config.eos_token_id
    listed = end if isinstance(end, list) else [] if end is None else [end]
    ends = torch.tensor(listed, dtype=ids.dtype, device=ids.device)
    lengths = []
    for row in ids:
        at = torch.isin(row, ends).nonzero().flatten()
        lengths.append(int(at[0]) + 1 if len(at) else len(row))
    return lengths
