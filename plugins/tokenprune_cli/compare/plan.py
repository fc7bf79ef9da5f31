# SPDX-License-Identifier: Apache-2.0
"""What is compared, decided before anything is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenprune
from tokenprune_cli.compare import protocols
from tokenprune_cli.evaluation.settings import BASELINES, UNPRUNED, Setting, refusal

RANDOM = "random"
ALWAYS = ("stride", RANDOM, *BASELINES)  # in every table, whatever is asked for
SHARES = (2, 4, 8, 16)  # budgets when none are asked for: a half ... a sixteenth of the visual tokens


@dataclass(frozen=True)
class Line:
    """One line of a table: a protocol and what it means for a method at a budget on this model."""

    protocol: str
    setting: Setting


@dataclass(frozen=True)
class Plan:
    """Lines in order: by protocol, unpruned first, then by budget, the largest first.

    `refused` says why the model cannot run under a setting; `unavailable` which methods it cannot use at all,
    at any budget and under any protocol, and why. Those have no lines.
    """

    lines: tuple[Line, ...]
    refused: dict[Setting, str]
    unavailable: dict[str, str]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What has to be run, each once. Baselines, whose pictures are their own, come last."""
        reached = dict.fromkeys(line.setting for line in self.lines if line.setting not in self.refused)
        return tuple(sorted(reached, key=lambda s: s.method in BASELINES))


def make_plan(
    model: Any,
    methods: Sequence[str],
    keeps: Sequence[int],
    names: Sequence[str],
    always: Sequence[str] = ALWAYS,
) -> Plan:
    """Decide what to compare; what the model cannot do is found out by applying it.

    Parameters
    ----------
    model
        The unpruned model.
    methods
        Names; none: all there are.
    keeps
        Budgets.
    names
        Protocols.
    always
        Methods that take part whatever is asked for, after the others.
    """
    wanted = [name for name in methods or tokenprune.list_methods() if name not in always]
    everyone = [*dict.fromkeys(wanted), *always]
    budgets = sorted(set(keeps), reverse=True)
    settings = {
        (protocol, keep, method): protocols.setting(protocol, method, keep, model)
        for protocol in names
        for keep in budgets
        for method in everyone
    }
    reasons = {setting: refusal(model, setting) for setting in dict.fromkeys(settings.values())}
    unavailable: dict[str, str] = {}
    for method in everyone:
        own = [reason for setting, reason in reasons.items() if setting.method == method]
        first = own[0]
        if first is not None and all(reason == first for reason in own):
            unavailable[method] = first
    lines = []
    for protocol in names:
        lines.append(Line(protocol, UNPRUNED))
        lines += [
            Line(protocol, setting)
            for (of, _, method), setting in settings.items()
            if of == protocol and method not in unavailable
        ]
    refused = {s: r for s, r in reasons.items() if r is not None and s.method not in unavailable}
    return Plan(tuple(lines), refused, unavailable)


def default_keeps(mean_tokens: float) -> list[int]:
    """Budgets when none are asked for."""
    return [max(1, round(mean_tokens / share)) for share in SHARES]


def key(setting: Setting) -> str:
    """How a setting is called in the journal; equal settings, and only those, have equal keys."""
    if setting.method is None:
        return "unpruned"
    return " ".join([setting.method, str(setting.keep), *(f"{k}={v}" for k, v in setting.options)])
