# SPDX-License-Identifier: Apache-2.0
"""Running a model and comparing what it returns; the trial of adapters that bring none of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedCallError
from ..handle import PruningHandle
from ..selection import Selection
from ..trial import EXACTNESS, Judge, PromiseRecord, Trial


class PlainTrial(Trial):
    """Calls the model and compares its tensors."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.model, self.inputs = model, inputs

    def outputs(self, brief: bool = False) -> list[Tensor]:
        """All tensors of what the model returns."""
        return tensors_of(called(self.model, self.inputs))

    def run(self, handle: PruningHandle) -> Judge:
        """Run the pruned model; the adapter knows nothing to compare its answer with."""
        called(self.model, self.inputs)
        name, note = handle.cuts[0].method.name, "the model's adapter brings no reference to compare with"
        return lambda: [PromiseRecord.skipped(EXACTNESS, name, note)]


def called(model: nn.Module, inputs: Any) -> Any:
    """Call a model with arguments by name, by position, or with a single one."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in an output, in order.

    Raises
    ------
    UnsupportedCallError
        When there are none.
    """
    found = list(_walk(output))
    if not found:
        raise UnsupportedCallError(f"the model returned {type(output).__name__}, in which there is no tensor")
    return found


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
    """The slot (K,) of each chosen row; a made one (-1) gets the next free of n after the one before it."""
    slots: list[int] = selection.indices.tolist()
    taken = {slot for slot in slots if slot >= 0}
    for place, slot in enumerate(slots):
        if slot < 0:
            after = slots[place - 1] + 1 if place else 0
            slots[place] = next(s % n for s in range(after, after + n) if s % n not in taken)
            taken.add(slots[place])
    return torch.tensor(slots, device=selection.indices.device)


def largest_difference(ones: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of tensors, 0 where all bits are equal; infinite where shapes are not.

    Where one has more tensors than the other, the first ones of both are compared.
    """
    both = list(zip(ones, others, strict=False))
    if any(one.shape != other.shape for one, other in both):
        return float("inf")
    pairs = [(a, b) for a, b in both if not torch.equal(a, b)]
    return max((float((a.double() - b.double()).abs().max()) for a, b in pairs), default=0.0)
