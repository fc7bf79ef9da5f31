# SPDX-License-Identifier: Apache-2.0
"""Decide what to compare before anything is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.settings import BASELINES, UNPRUNED, Setting, refusal

import tokenprune
from tokenprune_cli.compare import protocols

RANDOM = "random"
ALWAYS = ("stride", RANDOM, *BASELINES)  # in every table, whatever is requested
SHARES = (2, 4, 8, 16)  # default budgets: a half ... a sixteenth of the visual tokens


@dataclass(frozen=True)
class Line:
    """One line of a table: a protocol, and its setting for a method at a budget on this model."""

    protocol: str
    setting: Setting


@dataclass(frozen=True)
class Plan:
    """Lines of the tables by protocol: the unpruned model first, then by budget, the largest first.

    `refused` has the reason why the model cannot run under a setting; `unavailable` why it cannot use a
    method at any budget under any protocol. Unavailable methods have no lines.
    """

    lines: tuple[Line, ...]
    refused: dict[Setting, str]
    unavailable: dict[str, str]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Settings to run, without repetition. Baselines come last: they change the pictures."""
        reached = dict.fromkeys(line.setting for line in self.lines if line.setting not in self.refused)
        return tuple(sorted(reached, key=lambda s: s.method in BASELINES))


def make_plan(
    model: Any,
    methods: Sequence[str],
    keeps: Sequence[int],
    protocol_names: Sequence[str],
    always: Sequence[str] = ALWAYS,
) -> Plan:
    """Decide what to compare; applies every setting to the model to see whether it is possible.

    Parameters
    ----------
    model
        The unpruned model.
    methods
        Names of methods; all methods if empty.
    keeps
        Budgets.
    protocol_names
        Names of protocols.
    always
        Methods to include in any case, after the others.
    """
    requested = [name for name in methods or tokenprune.list_methods() if name not in always]
    everyone = [*dict.fromkeys(requested), *always]
    lines = []
    for protocol in protocol_names:
        lines.append(Line(protocol, UNPRUNED))
        for keep in sorted(set(keeps), reverse=True):
            lines += [Line(protocol, protocols.setting(protocol, name, keep, model)) for name in everyone]
    reasons = {setting: refusal(model, setting) for setting in dict.fromkeys(line.setting for line in lines)}
    unavailable: dict[str, str] = {}
    for name in everyone:
        first, *others = {reason for setting, reason in reasons.items() if setting.method == name}
        if first is not None and not others:
            unavailable[name] = first
    return Plan(
        tuple(line for line in lines if line.setting.method not in unavailable),
        {s: reason for s, reason in reasons.items() if reason is not None and s.method not in unavailable},
        unavailable,
    )


def default_keeps(mean_tokens: float) -> list[int]:
    """Return the default budgets for a mean number of visual tokens."""
    return [max(1, round(mean_tokens / share)) for share in SHARES]
