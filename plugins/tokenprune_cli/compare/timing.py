# SPDX-License-Identifier: Apache-2.0
"""Measure time to first token and operations, one question at a time, alternating between all settings."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean, median
from typing import Any

import torch
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.flop_counter import FlopCounter
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.prompts import placed
from tokenprune_evaluation.settings import Setting, key

from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.bench.contenders import Contender
from tokenprune_cli.bench.timing import time_prefill
from tokenprune_cli.compare.answers import Run

N_QUESTIONS = 3  # questions that are timed: the first ones of the report's examples
REPEATS = 7


def measure(
    run: Run, settings: Sequence[Setting], repeats: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Time every setting on the same questions; the settings share no work.

    Returns
    -------
    dict
        By the setting's key: `time_to_first_token_ms` with median, minimum and maximum over the repeats of
        the mean over the questions; the parts of it in the tower and in choosing; and `flops` by part.
    """
    total, done = len(settings) * (1 + repeats), itertools.count(1)
    clock = Clock(run.model.device)
    batches = [
        placed(run.model, run.questions.inputs(run.processor, [number]))
        for number in run.questions.examples[:N_QUESTIONS]
    ]
    contenders = {
        s: [contender(run.model, s, inputs, run.options.seed) for inputs in batches] for s in settings
    }
    flops: dict[Setting, dict[str, float]] = {}
    samples: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in settings}
    for setting in settings:
        flops[setting] = _mean([count_flops(run.model, each, clock) for each in contenders[setting]])
        progress("timing", next(done), total)
    for _ in range(repeats):
        for setting in settings:
            seconds = [time_prefill(run.model, each, clock, 0).seconds for each in contenders[setting]]
            samples[setting].append(_mean(seconds))
            progress("timing", next(done), total)
    return {key(setting): _summary(samples[setting], flops[setting]) for setting in settings}


@torch.no_grad()
def count_flops(model: Any, contender: Contender, clock: Clock) -> dict[str, float]:
    """Return the operations of a prefill as PyTorch counts them: tower, choosing, language and total.

    `tower`, with the projector, are those before the call of the language model. `language` follows from the
    rows that enter its layers, by formula. The rest is `choosing`: scores, distances, rows of attention.
    """
    counter, before, rows = FlopCounter(), list[int](), list[int]()
    language = model.model.language_model

    @contextmanager
    def counted() -> Iterator[None]:  # the prefill alone: applying a method runs a few rows too
        with ExitStack() as hooks:
            for layer in language.layers:
                hooks.enter_context(
                    layer.register_forward_hook(
                        lambda _, args, out: rows.append(args[0].shape[1] if args else 0)
                    )
                )
            hooks.enter_context(
                language.register_forward_pre_hook(lambda *_: before.append(counter.total), prepend=True)
            )
            with counter:
                yield

    time_prefill(model, contender, clock, 0, counted())
    formula = prefill_flops(model.config.text_config, rows)
    parts = {"tower": before[0], "choosing": counter.total - before[0] - formula, "language": formula}
    return {**parts, "total": counter.total}


def contender(model: Any, setting: Setting, inputs: dict[str, Any], seed: int) -> Contender:
    """Return what is timed for a setting."""
    ready = functools.partial(setting.applied, model, seed)
    return Contender(key(setting), setting.keep, ready, functools.partial(setting.prepared, model, inputs))


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each part."""
    return {part: fmean(values[part] for values in parts) for part in parts[0]}


def _summary(samples: Sequence[dict[str, float]], flops: dict[str, float]) -> dict[str, Any]:
    prefill = [seconds["prefill"] for seconds in samples]
    return {
        "time_to_first_token_ms": {
            "median": _milliseconds(median(prefill)),
            "low": _milliseconds(min(prefill)),
            "high": _milliseconds(max(prefill)),
        },
        "tower_ms": _milliseconds(median(seconds["tower"] for seconds in samples)),
        "choosing_ms": _milliseconds(median(seconds["choosing"] for seconds in samples)),
        "flops": {part: round(count) for part, count in flops.items()},
    }


def _milliseconds(seconds: float) -> float:
    """Round to four digits."""
    return float(f"{1e3 * seconds:.4g}")
