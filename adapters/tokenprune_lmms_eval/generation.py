# SPDX-License-Identifier: Apache-2.0
"""Convert a task's generation arguments to those of `generate`, and stop at its stop strings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from tokenprune import InputError

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


@dataclass(frozen=True)
class Generation:
    """Arguments of `generate`, stop strings, and names of the task's unused arguments."""

    options: Mapping[str, Any]
    until: tuple[str, ...]
    unused: tuple[str, ...] = field(default=(), compare=False)


def read_generation(arguments: Mapping[str, Any], max_new_tokens: int) -> Generation:
    """Parse a task's `generation_kwargs`.

    Samples if `do_sample` is true or, if that is not set, a temperature is given; a temperature of 0 is
    always greedy. Greedy decoding unsets all sampling parameters, including the checkpoint's own.

    Parameters
    ----------
    arguments
        The task's arguments, including `until` (lmms-eval adds its few-shot delimiter if there is none).
    max_new_tokens
        Default for tasks that do not set it.

    Raises
    ------
    InputError
        If `until` is not a string or a list of strings, or if several answers per question are requested.
    """
    known = vars(GenerationConfig())
    options = {name: value for name, value in arguments.items() if name in known and value is not None}
    until = arguments.get("until") or []
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise InputError(f"until must be a string or a list of strings, got {until!r}")
    if options.pop("num_return_sequences", 1) != 1:
        raise InputError("num_return_sequences must be 1; for several answers per question see --repeats")
    options.setdefault("max_new_tokens", max_new_tokens)
    temperature = options.get("temperature")
    samples = temperature is not None if options.get("do_sample") is None else options["do_sample"]
    options["do_sample"] = bool(samples) and (temperature is None or temperature > 0)
    if not options["do_sample"]:
        options |= dict.fromkeys(SAMPLING)
    unused = tuple(name for name in arguments if name not in known and name != "until")
    return Generation(options, tuple(stop for stop in stops if stop), unused)


def batches(
    arguments: Sequence[Mapping[str, Any] | None], size: int, max_new_tokens: int
) -> list[tuple[Generation, list[int]]]:
    """Group the indices of questions into batches of at most `size` with equal arguments, in order.

    Parameters
    ----------
    arguments
        The `generation_kwargs` of each question.
    """
    groups: dict[str, list[int]] = {}
    for index, question_arguments in enumerate(arguments):
        groups.setdefault(json.dumps(question_arguments, sort_keys=True, default=str), []).append(index)
    result = []
    for indices in groups.values():
        generation = read_generation(arguments[indices[0]] or {}, max_new_tokens)
        result += [(generation, indices[start : start + size]) for start in range(0, len(indices), size)]
    return result


def truncate(text: str, until: Sequence[str]) -> str:
    """Truncate a string before its first stop string."""
    return text[: min((end for stop in until if (end := text.find(stop)) >= 0), default=len(text))]


class StopAtStrings(StoppingCriteria):  # type: ignore[misc]
    """Stops each row once its decoded answer contains a stop string, however it is tokenised."""

    def __init__(self, tokenizer: Any, until: Sequence[str], n_prompt: int) -> None:
        self.tokenizer, self.until, self.n_prompt = tokenizer, until, n_prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows are done, (B,), given token ids (B, L) that begin with `n_prompt` tokens."""
        texts = self.tokenizer.batch_decode(input_ids[:, self.n_prompt :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(done, device=input_ids.device)
