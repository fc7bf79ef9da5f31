# SPDX-License-Identifier: Apache-2.0
"""What is compared: the unpruned model, a method at a budget, or a baseline that changes the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

import tokenprune
from tokenprune_evaluation import downsample
from tokenprune_evaluation.named_methods import method_named, plain_text

BASELINES = (downsample.NAME,)  # compared like methods, but applied before any stage


@dataclass(frozen=True)
class Setting:
    """The name of a method and the number of visual tokens it keeps of each image; both None: unpruned.

    The name may have options behind it; see `named_methods`. `rule` is an adaptive budget in place of the
    number. `options` are further options of `tokenprune.apply`, as (name, value). A setting prepares the
    model (`applied`) and its inputs (`prepared`).
    """

    method: str | None = None
    keep: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    rule: tokenprune.Cover | None = None

    @property
    def label(self) -> str:
        """Name of the setting in tables and pictures."""
        if self.method is None:
            return "unpruned"
        return f"{self.method}, {self.keep} tokens" if self.rule is None else f"{self.method}, {self.rule}"

    @property
    def budget(self) -> int | tokenprune.Budget | None:
        """What `tokenprune.apply` takes as `keep`."""
        return self.keep if self.rule is None else tokenprune.Budget(rule=self.rule)

    @contextmanager
    def applied(self, model: nn.Module, seed: int = 0) -> Iterator[tokenprune.PruningHandle | None]:
        """Prune the model within the block; the handle is None if nothing is pruned."""
        if self.method is None:
            yield None
        elif self.method == downsample.NAME:
            downsample.check(model)
            with downsample.interpolated_positions(model):
                yield None
        else:
            options: dict[str, Any] = dict(self.options)
            method = method_named(self.method)
            with tokenprune.apply(model, method=method, keep=self.budget, seed=seed, **options) as handle:
                yield handle

    def prepared(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the model inputs of this setting: with smaller images for `downsample`, else unchanged."""
        if self.method != downsample.NAME or self.keep is None:
            return inputs
        config = model.config
        return downsample.downsample(
            inputs, config.image_token_id, config.vision_config.patch_size, self.keep
        )


UNPRUNED = Setting()


def refusal(model: nn.Module, setting: Setting) -> str | None:
    """Return why a model does not support a setting, or None if it does. The model is left unchanged."""
    try:
        with setting.applied(model):
            return None
    except (tokenprune.IncompatibleError, tokenprune.BudgetError) as error:
        return str(error)


def known_method(text: str) -> str:
    """Return the name of a method, with its options, or of a baseline; raise if it is neither."""
    return text if text in BASELINES else plain_text(text)


def key(setting: Setting) -> str:
    """Return a setting's name in the journal; only equal settings have equal names."""
    if setting.method is None:
        return "unpruned"
    return " ".join(
        [setting.method, str(setting.rule or setting.keep), *(f"{k}={v}" for k, v in setting.options)]
    )
