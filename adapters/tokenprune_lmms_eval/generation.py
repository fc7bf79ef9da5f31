# SPDX-License-Identifier: Apache-2.0
"""A task's generation arguments, as `generate` takes them; and stopping at strings."""

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
    """`options` of `generate`, texts at which an answer ends, and arguments of the task that are not used."""

    options: Mapping[str, Any]
    until: tuple[str, ...]
    unused: tuple[str, ...] = field(default=(), compare=False)


def read_generation(given: Mapping[str, Any], max_new_tokens: int) -> Generation:
    """Read a task's `generation_kwargs`.

    Greedy unless a temperature above 0 is given and `do_sample` does not say no; then what shapes sampling is
    set aside, the checkpoint's own too.

    Parameters
    ----------
    given
        As the task has them, `until` among them (lmms-eval adds its few-shot delimiter where there is none).
    max_new_tokens
        For tasks that do not say.

    Raises
    ------
    InputError
        When `until` is no text or list of texts, or several answers a question are asked for.
    """
    known = vars(GenerationConfig())
    options = {name: value for name, value in given.items() if name in known and value is not None}
    until = given.get("until") or []
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"until must be a text or a list of texts, got {until!r}")
    if options.pop("num_return_sequences", 1) != 1:
        raise InputError("num_return_sequences must be 1: a question has one answer; see --repeats")
    options.setdefault("max_new_tokens", max_new_tokens)
    temperature = options.get("temperature")
    asked = temperature is not None if options.get("do_sample") is None else options["do_sample"]
    options["do_sample"] = bool(asked) and (temperature is None or temperature > 0)
    if not options["do_sample"]:
        options |= dict.fromkeys(SAMPLING)
    unused = tuple(name for name in given if name not in known and name != "until")
    return Generation(options, tuple(text for text in texts if text), unused)


def batches(
    given: Sequence[Mapping[str, Any] | None], size: int, max_new_tokens: int
) -> list[tuple[Generation, list[int]]]:
    """Numbers of questions that can be answered together, `size` at a time, in their order.

    Parameters
    ----------
    given
        (n,) the `generation_kwargs` of each question; only equal ones go together.
    """
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(given):
        groups.setdefault(json.dumps(one, sort_keys=True, default=str), []).append(number)
    result = []
    for numbers in groups.values():
        generation = read_generation(given[numbers[0]] or {}, max_new_tokens)
        result += [(generation, numbers[at : at + size]) for at in range(0, len(numbers), size)]
    return result


def ended(text: str, until: Sequence[str]) -> str:
    """The text before the first of these."""
    return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


class UntilTexts(StoppingCriteria):  # type: ignore[misc]
    """Ends each row when its decoded answer holds one of the texts, whatever tokens they are made of."""

    def __init__(self, tokenizer: Any, until: Sequence[str], prompt: int) -> None:
        self.tokenizer, self.until, self.prompt = tokenizer, until, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Say which rows are done (B,), of token ids (B, L) whose first `prompt` are the question's."""
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt :], skip_special_tokens=True)
        done = [any(stop in text for stop in self.until) for text in texts]
        return torch.tensor(done, device=input_ids.device)
