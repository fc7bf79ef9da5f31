# SPDX-License-Identifier: Apache-2.0
"""Run a model and compare its outputs; the default trial of adapters without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedCallError
from ..handle import PruningHandle
from ..precision import in_float64
from ..selection import Selection
from ..trial import EXACTNESS, Judge, PromiseRecord, Trial


class PlainTrial(Trial):
    """Calls the model and compares its output tensors."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.model, self.inputs = model, inputs

    def outputs(self, brief: bool = False) -> list[Tensor]:
        """Return all tensors of the model's output."""
        return tensors_of(called(self.model, self.inputs))

    def run(self, handle: PruningHandle) -> Judge:
        """Run the pruned model; without a trial of the adapter, exactness cannot be checked."""
        called(self.model, self.inputs)
        name, note = handle.cuts[0].method.name, "the model's adapter has no reference to compare with"
        return lambda: [PromiseRecord.skipped(EXACTNESS, name, note)]


def called(model: nn.Module, inputs: Any) -> Any:
    """Call a model with keyword arguments, positional arguments, or a single one."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def tensors_of(output: Any) -> list[Tensor]:
    """Return all tensors in an output, in order.

    Raises
    ------
    UnsupportedCallError
        When there are none.
    """
    tensors = list(_walk(output))
    if not tensors:
        raise UnsupportedCallError(f"the model returned {type(output).__name__}, which contains no tensor")
    return tensors


def _walk(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _walk(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _walk(value)


def slots_of(selection: Selection, n: int) -> Tensor:
    """Return the slot of each row, (K,); a new row (-1) gets the next free slot of n after the last."""
    slots: list[int] = selection.indices.tolist()
    taken = {slot for slot in slots if slot >= 0}
    for place, slot in enumerate(slots):
        if slot < 0:
            after = slots[place - 1] + 1 if place else 0
            slots[place] = next(s % n for s in range(after, after + n) if s % n not in taken)
            taken.add(slots[place])
    return torch.tensor(slots, device=selection.indices.device)


def largest_difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Return the largest difference of tensors: 0 if all are bit-identical, infinite if shapes differ.

    If one sequence is longer, its additional tensors are ignored.
    """
    pairs = list(zip(expected, actual, strict=False))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    unequal = [(a, b) for a, b in pairs if not torch.equal(a, b)]
    return max((float((in_float64(a) - in_float64(b)).abs().max()) for a, b in unequal), default=0.0)
