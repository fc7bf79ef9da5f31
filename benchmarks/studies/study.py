# SPDX-License-Identifier: Apache-2.0
"""What a study is: variants of a method whose answers are compared, scorers whose rankings are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenprune_cli.records import Provenance

import tokenprune
from benchmarks.studies.encoder import EncoderWatch

UNPRUNED = "unpruned"
QUARTER, EIGHTH, SIXTEENTH = 1 / 4, 1 / 8, 1 / 16


@dataclass(frozen=True)
class Variant:
    """One way of choosing: a method, and more of `apply`'s options."""

    name: str
    method: tokenprune.Method
    options: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def applied(self, model: Any, share: float) -> Iterator[tokenprune.PruningHandle]:
        """Prune the model to this share of its visual tokens inside the block."""
        with tokenprune.apply(model, method=self.method, keep_ratio=share, **self.options) as handle:
            yield handle


@dataclass(frozen=True)
class Pair:
    """Two scorers, by name, whose rankings of the same tokens are compared.

    `floor`: only tokens count whose min-max normalised score by `against` reaches it.
    """

    of: str
    against: str
    floor: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a study does on one model, decided before anything runs.

    `shares` of the visual tokens are kept by each of `variants`, and answers compared with those of `base`.
    `scorers` rank the tokens of each picture, in the number format `formats` names (default: the model's
    own), and `pairs` of rankings are compared. `watch` records what enters the encoder's layers.
    """

    variants: tuple[Variant, ...] = ()
    base: str = ""
    shares: tuple[float, ...] = ()
    scorers: Mapping[str, tokenprune.Scorer] = field(default_factory=dict)
    formats: Mapping[str, torch.dtype] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    watch: EncoderWatch | None = None


@dataclass(frozen=True)
class Study:
    """A name, what is asked, and a function that makes a plan for a model or refuses it."""

    name: str
    title: str
    asks: str
    plan: Callable[[Any], Plan]


@dataclass(frozen=True)
class StudyRecord(Provenance):
    """What came out of a study on a model: answers (`cells`) and rankings, compared; see `running`."""

    model: str
    study: str
    questions: dict[str, Any]
    base: str
    cells: list[dict[str, Any]]
    rankings: list[dict[str, Any]]
