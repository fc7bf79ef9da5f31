# SPDX-License-Identifier: Apache-2.0
"""Measuring what pruning costs in accuracy and saves in memory and arithmetic; nothing here prints."""

from tokenprune_cli.evaluation.answering import Answered, Batch, answer_batch
from tokenprune_cli.evaluation.costs import prefill_flops
from tokenprune_cli.evaluation.kv_cache import kv_cache_bytes
from tokenprune_cli.evaluation.prompts import (
    picture_token,
    placed,
    question_prompt,
    tokenized,
    unusable_character,
)
from tokenprune_cli.evaluation.settings import BASELINES, UNPRUNED, Setting, known_method, refusal

__all__ = [
    "BASELINES",
    "UNPRUNED",
    "Answered",
    "Batch",
    "Setting",
    "answer_batch",
    "known_method",
    "kv_cache_bytes",
    "picture_token",
    "placed",
    "prefill_flops",
    "question_prompt",
    "refusal",
    "tokenized",
    "unusable_character",
]
