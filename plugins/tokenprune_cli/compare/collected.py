# SPDX-License-Identifier: Apache-2.0
"""Collect the answers under each setting from the journal's lines, with their costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenprune_evaluation.costs import prefill_flops

from tokenprune_cli.bench.oracle import Profile, rows_by_layer


@dataclass
class SettingAnswers:
    """Answers under one setting in the order of the questions, rows entering each layer, and rows of text.

    `refused` is the reason why the model could not run on at least one batch; the other fields are then
    incomplete. `kept` are the slots kept for each example question, by its number (None: all). `anew` and
    `talking` are the answers to the later questions of the conversation track.
    """

    answers: list[str] = field(default_factory=list)
    rows: list[Profile] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kept: dict[int, Sequence[int] | None] = field(default_factory=dict)
    kv_bytes: float = 0.0
    refused: str | None = None
    timing: Mapping[str, Any] | None = None
    anew: list[str] = field(default_factory=list)
    talking: list[str] = field(default_factory=list)

    def visual_rows(self, n_layers: int) -> list[float]:
        """Return the mean number of visual rows entering each layer."""
        rows = [rows_by_layer(profile, n_layers) for profile in self.rows]
        means: list[float] = np.mean(np.array(rows) - np.array(self.text)[:, None], axis=0).tolist()
        return means

    def language_flops(self, config: Any) -> float:
        """Return the mean operations of the language model's prefill, by formula."""
        total = sum(
            n * prefill_flops(config, rows_by_layer(profile, config.num_hidden_layers))
            for profile, n in Counter(self.rows).items()
        )
        return total / len(self.rows)


def collect(lines: Sequence[Mapping[str, Any]]) -> dict[str, SettingAnswers]:
    """Collect the journal's lines by setting, in the order of the batches."""
    collected: dict[str, SettingAnswers] = {}
    for line in sorted(lines, key=lambda line: line.get("batch", -1)):
        setting = collected.setdefault(line["cell"], SettingAnswers())
        if "timing" in line:
            setting.timing = line["timing"]
        elif "refused" in line:
            setting.refused = line["refused"]
        elif "anew" in line:
            setting.anew += line["anew"]
            setting.talking += line["talking"]
        else:
            before, n = len(setting.answers), len(line["answers"])
            setting.kv_bytes = (setting.kv_bytes * before + line["kv_bytes"] * n) / (before + n)
            setting.answers += line["answers"]
            setting.rows += [tuple((layer, rows) for layer, rows in changes) for changes in line["rows"]]
            setting.text += line["text"]
            setting.tokens += line["tokens"]
            setting.kept |= {int(number): slots for number, slots in line.get("kept", {}).items()}
    return collected
