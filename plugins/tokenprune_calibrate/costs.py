# SPDX-License-Identifier: Apache-2.0
"""What a setting's prefill costs, as a share of the unpruned model's: in operations, or in measured time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import torch
from tokenprune_evaluation.flop_counter import FlopCounter
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.prompts import placed
from tokenprune_evaluation.settings import UNPRUNED, Setting

from .collecting import Traffic

N_QUESTIONS = 3  # whose prefill is counted or timed
REPEATS = 7
FLOPS, SECONDS = "flops", "seconds"


@torch.no_grad()
def costs_of(
    traffic: Traffic,
    numbers: Sequence[int],
    settings: Sequence[Setting],
    in_seconds: bool,
    progress: Progress,
) -> dict[Setting, float]:
    """Return each setting's prefill, tower included, as a share of the unpruned one's.

    Parameters
    ----------
    numbers
        Questions to count; the first three of them, one at a time.
    in_seconds
        Take the median time of seven runs, in turns with the other settings, instead of operations.
    """
    batches = [traffic.questions.inputs(traffic.processor, [number]) for number in numbers[:N_QUESTIONS]]
    everyone = (UNPRUNED, *settings)
    repeats = 1 + REPEATS if in_seconds else 1  # the first warms up
    total, done = repeats * len(everyone), itertools.count(1)
    amounts: dict[Setting, list[float]] = {setting: [] for setting in everyone}
    for _ in range(repeats):
        for setting in everyone:
            amounts[setting].append(fmean(_amount(traffic, batch, setting, in_seconds) for batch in batches))
            progress("measuring costs", next(done), total)
    unpruned = median(amounts[UNPRUNED][-REPEATS:])
    return {setting: median(amounts[setting][-REPEATS:]) / unpruned for setting in settings}


def _amount(traffic: Traffic, batch: dict[str, Any], setting: Setting, in_seconds: bool) -> float:
    """Return the operations of a prefill, or its seconds."""
    model = traffic.model
    with setting.applied(model, traffic.seed):
        inputs = {**placed(model, batch), "use_cache": True, "logits_to_keep": 1}
        if not in_seconds:
            with FlopCounter() as counter:
                model(**inputs)
            return float(counter.total)
        _synchronise(model)
        start = time.perf_counter()
        model(**inputs)
        _synchronise(model)
        return time.perf_counter() - start


def _synchronise(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
