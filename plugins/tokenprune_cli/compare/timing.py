# SPDX-License-Identifier: Apache-2.0
"""Time to the first token and operations before it, of one question at a time, all settings in turns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from tokenprune_cli.bench.clock import Clock
from tokenprune_cli.bench.contenders import Contender
from tokenprune_cli.bench.timing import FlopCounter, time_prefill
from tokenprune_cli.compare.plan import key
from tokenprune_cli.compare.question_set import QuestionSet, make_batch
from tokenprune_cli.evaluation.costs import prefill_flops
from tokenprune_cli.evaluation.prompts import placed
from tokenprune_cli.evaluation.settings import Setting

N_QUESTIONS = 3  # questions that are timed: the first ones of the report's examples
REPEATS = 7


def measure(
    model: Any,
    processor: Any,
    questions: QuestionSet,
    settings: Sequence[Setting],
    seed: int,
    repeats: int = REPEATS,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Time every setting on the same questions; nothing is shared between settings.

    Returns
    -------
    dict
        By the setting's key: `time_to_first_token_ms`, median, lowest and highest over the repeats (of each,
        the mean over the questions), the tower's and choosing's part of it, and `flops` by part.
    """
    batches = [
        placed(model, make_batch(processor, questions, [questions.items[i]]))
        for i in questions.examples[:N_QUESTIONS]
    ]
    clock = Clock(model.device)
    runs = {s: [_contender(model, s, inputs, seed) for inputs in batches] for s in settings}
    flops = {}
    for setting, contenders in runs.items():
        flops[setting] = [count_flops(model, contender, clock) for contender in contenders]
        tick()
    samples: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in settings}
    for _ in range(repeats):
        for setting, contenders in runs.items():
            timed = [time_prefill(model, contender, clock, 0).seconds for contender in contenders]
            samples[setting].append({part: _mean([t[part] for t in timed]) for part in timed[0]})
            tick()
    return {
        key(setting): {
            "time_to_first_token_ms": _summary([s["prefill"] for s in samples[setting]]),
            "tower_ms": _milliseconds(median(s["tower"] for s in samples[setting])),
            "choosing_ms": _milliseconds(median(s["choosing"] for s in samples[setting])),
            "flops": {part: round(_mean([f[part] for f in flops[setting]])) for part in flops[setting][0]},
        }
        for setting in settings
    }


@torch.no_grad()
def count_flops(model: Any, contender: Contender, clock: Clock) -> dict[str, float]:
    """Operations of one prefill as PyTorch counts them: `tower` with projector, `choosing`, `language`.

    The tower's are those before the language model is called. The language model's follow from the rows that
    enter its layers; what is left is what choosing took: scores, distances, attention rows.
    """
    counter, before, rows = FlopCounter(), list[int](), list[int]()
    language = model.model.language_model

    @contextmanager
    def watched() -> Iterator[None]:  # the prefill alone: a model that is being pruned runs a few rows too
        hooks = [
            layer.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[1] if args else 0))
            for layer in language.layers
        ]
        hooks.append(
            language.register_forward_pre_hook(lambda *_: before.append(counter.total), prepend=True)
        )
        try:
            with counter:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    time_prefill(model, contender, clock, 0, watched())
    formula = prefill_flops(model.config.text_config, rows)
    parts = {"tower": before[0], "choosing": counter.total - before[0] - formula, "language": formula}
    return {**parts, "total": counter.total}


def _contender(model: Any, setting: Setting, inputs: dict[str, Any], seed: int) -> Contender:
    ready = functools.partial(setting.applied, model, seed)
    return Contender(key(setting), setting.keep, ready, functools.partial(setting.prepared, model, inputs))


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": _milliseconds(median(seconds)),
        "low": _milliseconds(min(seconds)),
        "high": _milliseconds(max(seconds)),
    }


def _milliseconds(seconds: float) -> float:
    return float(f"{1e3 * seconds:.4g}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
