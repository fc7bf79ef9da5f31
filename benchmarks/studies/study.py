# SPDX-License-Identifier: Apache-2.0
"""Definition of a study: method variants whose answers are compared, and scorers whose rankings are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.records import Provenance

import tokenprune
from benchmarks.studies.encoder import EncoderWatch

UNPRUNED = "unpruned"
QUARTER, EIGHTH, SIXTEENTH = 1 / 4, 1 / 8, 1 / 16


@dataclass(frozen=True)
class Variant:
    """A method with further options of `apply`.

    `shares` maps a study's shares to those that this variant keeps instead, such as those at which it takes
    as many operations.
    """

    name: str
    method: tokenprune.Method
    options: Mapping[str, Any] = field(default_factory=dict)
    shares: Mapping[float, float] = field(default_factory=dict)

    @contextmanager
    def applied(self, model: Any, share: float) -> Iterator[tokenprune.PruningHandle]:
        """Prune the model to this share of its visual tokens, or the variant's own, inside the block."""
        share = self.shares.get(share, share)
        with tokenprune.apply(model, method=self.method, keep_ratio=share, **self.options) as handle:
            yield handle


@dataclass(frozen=True)
class Pair:
    """Two scorers, by name, whose rankings of the same tokens are compared.

    `floor`: compare only tokens whose min-max normalised score by `against` is at least this.
    """

    of: str
    against: str
    floor: float | None = None


@dataclass(frozen=True)
class Plan:
    """Plan of a study on one model, made before anything runs.

    Each of `variants` keeps `shares` of the visual tokens, and its answers are compared with those of `base`.
    `scorers` rank the tokens of each image, in the dtype in `formats` (default: the model's own), and `pairs`
    of rankings are compared. `watch` records the inputs of the encoder's layers.
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
    """A name, a question, and a function that makes a plan for a model or raises an error."""

    name: str
    asks: str
    plan: Callable[[Any], Plan]

    def only(self, names: Sequence[str]) -> Study:
        """Return the study of the base and the variants of these names; without names, the study itself.

        Raises
        ------
        BadInputError
            When the plan is made, if there is no variant of a name.
        """
        if not names:
            return self

        def plan(model: Any) -> Plan:
            whole = self.plan(model)
            known = [variant.name for variant in whole.variants]
            unknown = [name for name in names if name not in known]
            if unknown:
                raise BadInputError(
                    f"the study {self.name} has no variant {unknown[0]!r}; it has {', '.join(known)}"
                )
            wanted = {whole.base, *names}
            return replace(whole, variants=tuple(v for v in whole.variants if v.name in wanted))

        return replace(self, plan=plan)


@dataclass(frozen=True)
class StudyRecord(Provenance):
    """Results of a study on a model: comparisons of answers (`cells`) and rankings; see `running`."""

    model: str
    study: str
    questions: dict[str, Any]
    base: str
    cells: list[dict[str, Any]]
    rankings: list[dict[str, Any]]
