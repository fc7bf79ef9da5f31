# SPDX-License-Identifier: Apache-2.0
"""What an adapter provides for checks of its promises: tiny models, and runs of a model to compare."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor, nn

from .handle import PruningHandle
from .weights import evaluating

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"

IDENTITY, UNDO, EXACTNESS, BATCH, CACHE = "identity", "undo", "exactness", "batch", "cache"
# what each promise says; docs/check.md describes how it is checked
PROMISES: Mapping[str, str] = {
    IDENTITY: "with a budget of all visual tokens the model answers bit for bit as before",
    UNDO: "after remove() it answers bit for bit as before, and nothing is left on it",
    EXACTNESS: "prefill and decoding equal the language model run by hand on the kept rows",
    BATCH: "rows of a padded batch are answered as each row alone",
    CACHE: "the key-value cache holds exactly the kept rows, and the report counts its bytes",
}
ALL_PROMISES = "all"  # recorded for a method that does not run on the model


@dataclass(frozen=True)
class PromiseRecord:
    """The outcome of one promise, checked with one method.

    `outcome` is `"passed"`, `"failed"` or `"not applicable"`. `difference` is the largest difference and
    `allowed` the tolerance, both relative to the size of a row; for promises about equal bits or counts 0 is
    allowed; None if nothing was measured. `note` gives the reason.
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
        """Make a record of a difference: passed if it is at most `allowed`, which NaN is not."""
        outcome = PASSED if difference <= allowed else FAILED
        return cls(promise, method, outcome, difference, allowed, note)

    @classmethod
    def failed(cls, promise: str, method: str, note: str) -> PromiseRecord:
        """Make a record of a promise that was broken without a measured difference."""
        return cls(promise, method, FAILED, note=note)

    @classmethod
    def skipped(cls, promise: str, method: str, note: str) -> PromiseRecord:
        """Make a record of a promise that is not applicable, with the reason."""
        return cls(promise, method, NOT_APPLICABLE, note=note)


Judge = Callable[[], Iterable[PromiseRecord]]


@dataclass(frozen=True)
class Specimen:
    """A tiny model of a family, built from a configuration in the adapter's package.

    `build` returns it in evaluation mode, with the same weights each time; `package` is the module that it
    requires, or an empty string; `remedy` says how to install that. `least` is the first version (major,
    minor) of the package that has the family, if not all tested ones do.
    """

    name: str
    build: Callable[[], nn.Module]
    package: str = ""
    remedy: str = ""
    least: tuple[int, int] | None = None

    @property
    def is_installed(self) -> bool:
        """Whether the required package is installed, in a version that has the family."""
        if not self.package:
            return True
        if importlib.util.find_spec(self.package) is None:
            return False
        if self.least is None:
            return True
        major, minor = metadata.version(self.package).split(".")[:2]
        return (int(major), int(minor)) >= self.least


class Trial(ABC):
    """A model and its inputs, run repeatedly with and without pruning."""

    model: nn.Module

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of the model that its outputs depend on, besides device and dtype, by name."""
        return {}

    @abstractmethod
    def outputs(self, brief: bool = False) -> list[Tensor]:
        """Run the model as it is, and return its outputs, deterministically; `brief`: the first part only."""

    @abstractmethod
    def run(self, handle: PruningHandle) -> Judge:
        """Run the model, which is pruned through `handle`.

        Returns
        -------
        Callable
            Checks the promises other than `identity` and `undo` on these runs; called without arguments when
            the model is no longer pruned.
        """

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Context of all runs: evaluation mode, no gradients, no compiled code; restored afterwards."""
        with evaluating(self.model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
