# SPDX-License-Identifier: Apache-2.0
"""Checks of promises on tiny models of every family, or on one model of the user's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import tokenprune
from tokenprune.testing import ModelCheck, check_model
from tokenprune.trial import ALL_PROMISES, PromiseRecord, Specimen
from tokenprune_cli.check.record import CheckRecord, is_broken
from tokenprune_cli.console.failures import BadInputError, first_line
from tokenprune_cli.records import Provenance

if TYPE_CHECKING:
    from tokenprune import ModelAdapter

# of unequal length, so that a batch of them is padded; the embedded model knows the words of the first
QUESTIONS = ("what color is the star ?", "how many red circles are there in this picture , and where ?")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What checks have in common: methods by name (None: all), the budget, the seed."""

    methods: list[str] | None
    budget: tokenprune.Budget
    seed: int

    def check(self, model: Any, inputs: Any = None) -> ModelCheck:
        """Check one model; refuse one that does not fit into memory."""
        try:
            return check_model(
                model,
                inputs,
                methods=self.methods,
                keep=self.budget.keep,
                keep_ratio=self.budget.keep_ratio,
                seed=self.seed,
            )
        except torch.OutOfMemoryError as error:
            raise BadInputError(
                f"the check of {type(model).__name__} does not fit into memory: {first_line(error)}"
            ) from None


def check_specimens(
    settings: Settings, place: str, dtype: torch.dtype, attention: str | None, progress: Progress
) -> CheckRecord:
    """Check a tiny model of each family that an installed adapter knows; return the record."""
    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny: threads would only wait for each other
    registry = tokenprune.default_registry()
    adapters = [registry.find("adapter", name) for name in registry.names("adapter")]
    found = [(adapter, specimen) for adapter in adapters for specimen in adapter.specimens()]
    models, left_out = [], []
    for number, (adapter, specimen) in enumerate(found):
        progress("tiny models", number, len(found))
        reason = _why_not(specimen, attention)
        if reason:
            left_out.append({"name": specimen.name, "reason": reason})
            continue
        check = _check_specimen(settings, adapter, specimen, place, dtype, attention)
        models.append({"name": specimen.name, **check.to_dict()})
    progress("tiny models", len(found), len(found))
    torch.set_num_threads(threads)
    return _record(settings, models, left_out, time.perf_counter() - start)


def _why_not(specimen: Specimen, attention: str | None) -> str:
    if not specimen.is_installed:
        return f"{specimen.package} is not installed: {specimen.remedy}"
    if attention is not None and specimen.package:
        return "its library has no attention implementations to choose from, so that --attn means nothing"
    return ""


def _check_specimen(
    settings: Settings,
    adapter: type[ModelAdapter],
    specimen: Specimen,
    place: str,
    dtype: torch.dtype,
    attention: str | None,
) -> ModelCheck:
    """Check one; a refusal counts as a failure here, as these models are known to run."""
    model: Any = specimen.build().to(place, dtype)
    if attention is not None:
        try:
            model.set_attn_implementation(attention)
        except (ValueError, ImportError, AttributeError) as error:
            raise BadInputError(f"--attn {attention}: {first_line(error)}") from None
    try:
        return settings.check(model)
    except (tokenprune.UnsupportedModelError, tokenprune.UnsupportedCallError) as error:
        broken = PromiseRecord.failed(ALL_PROMISES, "every method", str(error))
        name = type(model).__name__
        return ModelCheck(name, adapter.name, place, str(dtype), {}, str(settings.budget), (broken,), 0.0)


def check_one(settings: Settings, name: str, model: Any, processor: Any) -> CheckRecord:
    """Check a loaded model on a batch of two questions, through its own processor; return the record."""
    from tokenprune_cli.evaluation.prompts import placed, tokenized

    start = time.perf_counter()
    try:
        inputs = tokenized(processor, [_picture()] * len(QUESTIONS), QUESTIONS)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise BadInputError(
            f"the processor of the model '{name}' does not take a picture and a question: {first_line(error)}"
        ) from None
    check = settings.check(model, placed(model, inputs))
    return _record(settings, [{"name": name, **check.to_dict()}], [], time.perf_counter() - start)


def _picture() -> Image.Image:
    """A picture without equal patches: smooth colours under grain."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((448, 336))
    grain = draw.integers(-24, 25, (336, 448, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def _record(
    settings: Settings, models: list[dict[str, Any]], left_out: list[dict[str, str]], seconds: float
) -> CheckRecord:
    device = torch.device(models[0]["device"]) if models else None
    return CheckRecord(
        **vars(Provenance.here(device, "timm", "open_clip_torch")),
        passed=any(model["passed"] for model in models) and not any(map(is_broken, models)),
        seconds=round(seconds, 1),
        budget=str(settings.budget),
        models=models,
        left_out=left_out,
    )
