# SPDX-License-Identifier: Apache-2.0
"""The demo's results as plain data: what was run, where, and what came out."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from tokenprune_cli.demo.outcomes import Outcome, closing_line, verdicts
from tokenprune_cli.demo.plan import RECOMMENDED, Plan
from tokenprune_cli.evaluation import Estimate


def environment() -> dict[str, Any]:
    """Versions and kind of machine; no names of machines or paths."""
    names = ("tokenprune-vlm", "torch", "transformers")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def record(plan: Plan, outcomes: Sequence[Outcome], *, command: str, model: str, seed: int) -> dict[str, Any]:
    """Collect everything worth keeping of a run; the same inputs give the same record.

    Parameters
    ----------
    plan, outcomes
        What was compared and what came out, the unpruned model first.
    command
        The command line that repeats it.
    model
        What was asked: the embedded model or a folder's name.
    seed
        Of the methods that draw random numbers.
    """
    found = verdicts(outcomes)
    return {
        "command": command,
        "model": model,
        "seed": seed,
        "held_out_scenes": {"first": 0, "count": plan.scenes},
        "questions": outcomes[0].overall.n,
        **environment(),
        "results": [_outcome(outcome) for outcome in outcomes],
        "verdicts": [
            {
                "keep": verdict.keep,
                "best": list(verdict.best),
                "within_noise": list(verdict.within_noise),
                "behind": {method: _estimate(gap) for method, gap in verdict.behind},
                "sentence": str(verdict),
            }
            for verdict in found
        ],
        "closing_line": closing_line(found, RECOMMENDED),
        "skipped": plan.skipped,
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "method": outcome.setting.method,
        "keep": outcome.setting.keep,
        "accuracy": _estimate(outcome.overall),
        "families": {family: _estimate(value) for family, value in outcome.families.items()},
        "visual_tokens": round(outcome.costs.visual_tokens, 3),
        "visual_rows": [round(rows, 3) for rows in outcome.costs.visual_rows],
        "kv_cache_bytes": round(outcome.costs.kv_bytes),
        "prefill_flops": round(outcome.costs.prefill_flops),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    error = estimate.standard_error
    return {
        "value": round(estimate.value, 5),
        "standard_error": round(error, 5) if math.isfinite(error) else None,
        "n": estimate.n,
    }
