# SPDX-License-Identifier: Apache-2.0
"""What the demo compares, decided before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

import tokenprune
from tokenprune_cli.evaluation import BASELINES, UNPRUNED, Setting, refusal

RECOMMENDED = "zoo-exact"
METHODS = (RECOMMENDED, "zoo-prune", "divprune", "visionzip", "fastv", "random")
BUDGETS = (36, 18, 9)  # a quarter, an eighth and a sixteenth of the embedded model's 144 visual tokens
FULL_BUDGETS = (72, *BUDGETS)
SCENES = 40  # about 520 questions; a standard error of one or two points
FULL_SCENES = 80


@dataclass(frozen=True)
class Plan:
    """Settings to compare on the first `scenes` held-out scenes: unpruned, then by budget, largest first.

    `skipped` maps what this model cannot do (a method, or a method at one budget) to the reason.
    """

    settings: tuple[Setting, ...]
    scenes: int
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods that take part, in order."""
        return tuple(dict.fromkeys(s.method for s in self.settings if s.method is not None))

    @property
    def budgets(self) -> tuple[int, ...]:
        """Budgets that take part, the largest first."""
        return tuple(dict.fromkeys(s.keep for s in self.settings if s.keep is not None))


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
        The unpruned model; settings it cannot run under are left out, with the reason.
    full
        All installed methods, more budgets and more scenes.
    methods, budgets, scenes
        Override that choice.
    """
    wanted = tuple(dict.fromkeys(methods)) or (_all_methods() if full else METHODS)
    chosen = sorted(set(budgets or (FULL_BUDGETS if full else BUDGETS)), reverse=True)
    reasons = {s: refusal(model, s) for s in (Setting(method, keep) for keep in chosen for method in wanted)}
    skipped: dict[str, str] = {}
    for method in wanted:
        refused = {s: reason for s, reason in reasons.items() if s.method == method and reason is not None}
        if len(refused) == len(chosen) and len(set(refused.values())) == 1:
            skipped[method] = next(iter(refused.values()))
        else:
            skipped.update({s.label: reason for s, reason in refused.items()})
    settings = (UNPRUNED, *(s for s, reason in reasons.items() if reason is None))
    return Plan(settings, scenes or (FULL_SCENES if full else SCENES), skipped)


def _all_methods() -> tuple[str, ...]:
    """Every installed method and baseline, those of the short demo first."""
    installed = [*tokenprune.list_methods(), *BASELINES]
    first = [name for name in METHODS if name in installed]
    return (*first, *(name for name in installed if name not in first))
