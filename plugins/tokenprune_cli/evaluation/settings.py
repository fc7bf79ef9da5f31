# SPDX-License-Identifier: Apache-2.0
"""What is compared: the model as it is, a method at a budget, or a baseline that changes the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

import tokenprune
from tokenprune_cli.evaluation import downsample

BASELINES = (downsample.NAME,)  # what takes part like a method but is none: it comes before any stage


@dataclass(frozen=True)
class Setting:
    """A method, by name, and the visual tokens it keeps of each image; both None: unpruned.

    `options` are more of `apply`'s, as (name, value). A setting prepares both sides: the model (`applied`)
    and its inputs (`prepared`).
    """

    method: str | None = None
    keep: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """How tables and pictures call it."""
        return "unpruned" if self.method is None else f"{self.method}, {self.keep} tokens"

    @contextmanager
    def applied(self, model: nn.Module, seed: int = 0) -> Iterator[tokenprune.PruningHandle | None]:
        """Prune the model inside the block; the handle is None where nothing is pruned."""
        if self.method is None:
            yield None
        elif self.method == downsample.NAME:
            downsample.check(model)
            with downsample.interpolated_positions(model):
                yield None
        else:
            options: dict[str, Any] = dict(self.options)
            with tokenprune.apply(model, method=self.method, keep=self.keep, seed=seed, **options) as handle:
                yield handle

    def prepared(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """Model inputs under this setting: with smaller pictures for `downsample`, else as they are."""
        if self.method != downsample.NAME or self.keep is None:
            return inputs
        config = model.config
        return downsample.downsample(
            inputs, config.image_token_id, config.vision_config.patch_size, self.keep
        )


UNPRUNED = Setting()


def refusal(model: nn.Module, setting: Setting) -> str | None:
    """Why this model cannot run under a setting, None when it can. The model is left as it was."""
    try:
        with setting.applied(model):
            return None
    except (tokenprune.IncompatibleError, tokenprune.BudgetError) as error:
        return str(error)


def known_method(name: str) -> str:
    """Return the name if it is a method's or a baseline's, else raise UnknownNameError."""
    return name if name in BASELINES else tokenprune.method(name).name
