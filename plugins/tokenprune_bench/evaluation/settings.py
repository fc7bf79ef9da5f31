# SPDX-License-Identifier: Apache-2.0
"""What is compared: the model as it is, or a method at a budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

import tokenprune


@dataclass(frozen=True)
class Setting:
    """A method, by name, and the visual tokens it keeps of each image; both None: unpruned."""

    method: str | None = None
    keep: int | None = None

    @property
    def label(self) -> str:
        """How tables and pictures call it."""
        return "unpruned" if self.method is None else f"{self.method}, {self.keep} tokens"

    @contextmanager
    def applied(self, model: nn.Module, seed: int = 0) -> Iterator[tokenprune.PruningHandle | None]:
        """Prune the model inside the block; the handle is None where nothing is pruned."""
        if self.method is None:
            yield None
            return
        with tokenprune.apply(model, method=self.method, keep=self.keep, seed=seed) as handle:
            yield handle


UNPRUNED = Setting()


def refusal(model: nn.Module, setting: Setting) -> str | None:
    """Why this model cannot run under a setting, None when it can. The model is left as it was."""
    try:
        with setting.applied(model):
            return None
    except (tokenprune.IncompatibleError, tokenprune.BudgetError) as error:
        return str(error)
