# SPDX-License-Identifier: Apache-2.0
"""What an adapter brings to a check of its promises: tiny models to try, and runs of a model to compare."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .handle import PruningHandle

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"

IDENTITY, UNDO, EXACTNESS, BATCH, CACHE = "identity", "undo", "exactness", "batch", "cache"
# What each promise says; the documentation's page about `tokenprune check` says how it is checked.
PROMISES: Mapping[str, str] = {
    IDENTITY: "with a budget of all visual tokens the model answers bit for bit as before",
    UNDO: "after remove() it answers bit for bit as before, and nothing is left on it",
    EXACTNESS: "prefill and decoding equal the language model run by hand on the kept rows",
    BATCH: "rows of a padded batch are answered as each row alone",
    CACHE: "the key-value cache holds exactly the kept rows, and the report counts its bytes",
}
ALL_PROMISES = "all"  # of a method that does not run on the model


@dataclass(frozen=True)
class PromiseRecord:
    """One promise, checked with one method.

    `outcome` is `"passed"`, `"failed"` or `"not applicable"`. `difference` is the largest that was found and
    `allowed` the tolerance, both relative to the size of a row where the promise is not about equal bits or
    counts, and then 0 is allowed; None where nothing was measured. `note` gives the reason.
    """

    promise: str
    method: str
    outcome: str
    difference: float | None = None
    allowed: float | None = None
    note: str = ""

    @classmethod
    def of(
        cls, promise: str, method: str, difference: float, allowed: float, note: str = ""
    ) -> PromiseRecord:
        """Judge a difference: passed where it is not above what is allowed; NaN never is."""
        outcome = PASSED if difference <= allowed else FAILED
        return cls(promise, method, outcome, difference, allowed, note)

    @classmethod
    def failed(cls, promise: str, method: str, note: str) -> PromiseRecord:
        """A promise that was broken in another way than by a difference."""
        return cls(promise, method, FAILED, note=note)

    @classmethod
    def skipped(cls, promise: str, method: str, note: str) -> PromiseRecord:
        """A promise that is not applicable, and why."""
        return cls(promise, method, NOT_APPLICABLE, note=note)


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
