# SPDX-License-Identifier: Apache-2.0
"""What the demo compares, decided before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

import tokenprune
from tokenprune_bench.evaluation import UNPRUNED, Setting, refusal

RECOMMENDED = "zoo-exact"
METHODS = (RECOMMENDED, "zoo-prune", "divprune", "random", "stride")
BUDGETS = (36, 18, 9)  # a quarter, an eighth and a sixteenth of the embedded model's 144 visual tokens
FULL_BUDGETS = (108, 72, 48, 36, 24, 18, 12, 9)
SCENES = 40  # about 520 questions; a standard error of one or two points
FULL_SCENES = 200


@dataclass(frozen=True)
class Plan:
    """Methods and budgets to compare on the first `scenes` held-out scenes.

    `skipped` maps methods that this model cannot use to the reason.
    """

    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    scenes: int
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> list[Setting]:
        """The unpruned model, then every method at every budget, the largest budget first."""
        return [UNPRUNED, *(Setting(method, keep) for keep in self.budgets for method in self.methods)]


def make_plan(
    model: nn.Module,
    *,
    full: bool = False,
    methods: Sequence[str] = (),
    budgets: Sequence[int] = (),
    scenes: int | None = None,
) -> Plan:
    """Decide what to compare; whatever is not given is the demo's own choice.

    Parameters
    ----------
    model
        The unpruned model; methods it cannot use are left out, with the reason.
    full
        All installed methods, more budgets and more scenes.
    methods, budgets, scenes
        Override that choice.
    """
    wanted = tuple(methods) or (_all_methods() if full else METHODS)
    reasons = {method: refusal(model, method) for method in dict.fromkeys(wanted)}
    return Plan(
        methods=tuple(method for method, reason in reasons.items() if reason is None),
        budgets=tuple(sorted(set(budgets or (FULL_BUDGETS if full else BUDGETS)), reverse=True)),
        scenes=scenes or (FULL_SCENES if full else SCENES),
        skipped={method: reason for method, reason in reasons.items() if reason is not None},
    )


def _all_methods() -> tuple[str, ...]:
    """Every installed method, those of the short demo first."""
    installed = tokenprune.list_methods()
    first = [name for name in METHODS if name in installed]
    return (*first, *(name for name in installed if name not in first))
