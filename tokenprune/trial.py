# SPDX-License-Identifier: Apache-2.0
"""What an adapter brings to a check of its promises: tiny models to try, and runs of a model to compare."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedCallError
from .handle import PruningHandle
from .promises import EXACTNESS, PromiseRecord
from .selection import Selection

Judge = Callable[[], Iterable[PromiseRecord]]


@dataclass(frozen=True)
class Specimen:
    """A tiny model of a family, made on the spot from a configuration that the adapter's package has.

    `build` returns it in evaluation mode, with weights that are the same each time; `package` is the module
    that has to be installed for it, empty where nothing more is needed; `remedy` says how to install it.
    """

    name: str
    build: Callable[[], nn.Module]
    package: str = ""
    remedy: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether it can be built here."""
        return not self.package or importlib.util.find_spec(self.package) is not None


class Trial(ABC):
    """One model on one set of inputs, run again and again while it is pruned and when it is not."""

    model: nn.Module

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of the model that its answers depend on, beside device and dtype, by name."""
        return {}

    @abstractmethod
    def outputs(self, brief: bool = False) -> list[Tensor]:
        """What the model answers as it is now, the same bits for the same model; `brief`: the first of it."""

    @abstractmethod
    def run(self, handle: PruningHandle) -> Judge:
        """Run the model, which is pruned through `handle`.

        Returns
        -------
        Callable
            What checks promises beyond `identity` and `undo` by these runs; called without arguments when
            the model is no longer pruned.
        """

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Surround all runs: evaluation mode, no gradients, no compiled code; everything as it was after."""
        modules = list(self.model.modules())
        training = [module.training for module in modules]
        try:
            for module in modules:
                module.training = False
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for module, was in zip(modules, training, strict=True):
                module.training = was


class PlainTrial(Trial):
    """The trial of an adapter without one of its own: the model is called, and its tensors are compared."""

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
