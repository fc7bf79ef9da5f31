# SPDX-License-Identifier: Apache-2.0
"""Check promises on tiny models of every family, or on a model of the user's."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenprune_evaluation.progress import Progress
from tokenprune_evaluation.prompts import placed, tokenized
from tokenprune_evaluation.records import Provenance

import tokenprune
from tokenprune.testing import ModelCheck, check_model
from tokenprune.trial import ALL_PROMISES, FAILED, PromiseRecord, Specimen
from tokenprune_cli.check.specimens import chosen_specimens
from tokenprune_cli.console.failures import BadInputError, first_line, quietly

# of unequal length, so that a batch of them is padded; the embedded model knows the words of the first
QUESTIONS = ("what color is the star ?", "how many red circles are there in this picture , and where ?")


@dataclass(frozen=True)
class CheckRecord(Provenance):
    """What was checked.

    `models` are entries of `ModelCheck.to_dict` with a name, `left_out` names and reasons of tiny models that
    were not checked.
    """

    passed: bool
    seconds: float
    budget: str
    models: list[dict[str, Any]]
    left_out: list[dict[str, str]]


def is_broken(model: Mapping[str, Any]) -> bool:
    """Return whether a promise was broken on a model; none is if no method runs on it."""
    return any(record["outcome"] == FAILED for record in model["records"])


@dataclass(frozen=True)
class Settings:
    """Settings of all checks: the methods by name (None: all), the budget and the seed."""

    methods: list[str] | None
    budget: tokenprune.Budget
    seed: int

    def check(self, model: Any, inputs: Any = None) -> ModelCheck:
        """Check a model; raise an error if it does not fit into memory."""
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
    settings: Settings,
    families: Sequence[str],
    device: str,
    dtype: torch.dtype,
    attention: str | None,
    progress: Progress,
) -> CheckRecord:
    """Check tiny models of these families, or of all that installed adapters support without any."""
    start = time.perf_counter()
    pending, left_out = chosen_specimens(families, attention)
    check = functools.partial(_check_specimen, settings, device, dtype, attention)
    models = []
    with _map_in_processes(n_processes(device, len(pending))) as map_each:
        for number, model in enumerate(map_each(check, pending)):
            progress("tiny models", number + 1, len(pending))
            models.append(model)
    return _record(settings, models, left_out, time.perf_counter() - start)


def n_processes(device: str, n_models: int) -> int:
    """Return how many processes check tiny models: up to four on a CPU, each with four models or more."""
    return max(1, min(os.cpu_count() or 1, 4, n_models // 4)) if device == "cpu" else 1


@contextmanager
def _map_in_processes(n: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Provide a `map` that runs in `n` processes; with one, in this process."""
    if n == 1:
        yield map
        return
    try:
        with ProcessPoolExecutor(n, multiprocessing.get_context("spawn")) as pool:
            yield pool.map
    except BrokenProcessPool:
        raise BadInputError(
            "a process that was checking tiny models has died, perhaps for lack of memory; check one model "
            "with --model, or fewer methods with --method"
        ) from None


def _check_specimen(
    settings: Settings, device: str, dtype: torch.dtype, attention: str | None, names: tuple[str, str]
) -> dict[str, Any]:
    """Check the tiny model with these names of an adapter and a specimen.

    These models are known to run, so a refusal counts as a broken promise.
    """
    adapter_name, name = names
    adapter = tokenprune.default_registry().find("adapter", adapter_name)
    specimen = next(specimen for specimen in adapter.specimens() if specimen.name == name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with tiny tensors, threads only wait for each other
    try:
        with quietly():
            model = _tiny_model(specimen, device, dtype, attention)
            check = settings.check(model)
    except (tokenprune.UnsupportedModelError, tokenprune.UnsupportedCallError) as error:
        broken = PromiseRecord.failed(ALL_PROMISES, "every method", str(error))
        class_name, budget = type(model).__name__, str(settings.budget)
        check = ModelCheck(class_name, adapter_name, device, str(dtype), {}, budget, (broken,), 0.0)
    finally:
        torch.set_num_threads(threads)
    return {"name": name, **check.to_dict()}


def _tiny_model(specimen: Specimen, device: str, dtype: torch.dtype, attention: str | None) -> Any:
    model: Any = specimen.build().to(device, dtype)
    if attention is not None:
        try:
            model.set_attn_implementation(attention)
        except (ValueError, ImportError, AttributeError) as error:
            raise BadInputError(f"--attn {attention}: {first_line(error)}") from None
    return model


def check_loaded(settings: Settings, name: str, model: Any, processor: Any) -> CheckRecord:
    """Check a loaded model on a batch of two questions, with its own processor, and return the record."""
    start = time.perf_counter()
    try:
        inputs = tokenized(processor, [_image()] * len(QUESTIONS), QUESTIONS)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise BadInputError(
            f"the processor of the model '{name}' does not accept an image and a question: "
            f"{first_line(error)}"
        ) from None
    check = settings.check(model, placed(model, inputs))
    return _record(settings, [{"name": name, **check.to_dict()}], [], time.perf_counter() - start)


def _image() -> Image.Image:
    """Return an image in which no two patches are equal: smooth colors with grain."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((448, 336))
    grain = generator.integers(-24, 25, (336, 448, 3))
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
