# SPDX-License-Identifier: Apache-2.0
"""All answers under one setting, put together from the journal, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenprune_cli.bench.oracle import rows_by_layer
from tokenprune_cli.evaluation.costs import prefill_flops


@dataclass
class Collected:
    """Answers in the order of the questions, with the rows entering each layer and those of the text.

    `refused` says why the model could not run, for at least one batch; then nothing else counts. `kept` are
    the slots kept for each example question, by its number (None: all). `anew` and `talking` are the answers
    to the later questions of the conversation track.
    """

    answers: list[str] = field(default_factory=list)
    rows: list[list[list[int]]] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    kept: dict[int, Sequence[int] | None] = field(default_factory=dict)
    kv_bytes: float = 0.0
    refused: str | None = None
    timing: Mapping[str, Any] | None = None
    anew: list[str] = field(default_factory=list)
    talking: list[str] = field(default_factory=list)

    def visual_rows(self, n_layers: int) -> list[float]:
        """Mean visual rows entering each layer."""
        sums = [0.0] * n_layers
        for rows, text in zip(self.rows, self.text, strict=True):
            entering = rows_by_layer(_profile(rows), n_layers)
            sums = [total + n - text for total, n in zip(sums, entering, strict=True)]
        return [total / len(self.rows) for total in sums]

    def language_flops(self, config: Any) -> float:
        """Mean operations of the language model's prefill, by formula."""
        n_layers: int = config.num_hidden_layers
        counts = Counter(map(_profile, self.rows))
        total = sum(n * prefill_flops(config, rows_by_layer(rows, n_layers)) for rows, n in counts.items())
        return total / len(self.rows)


def collect(lines: Sequence[Mapping[str, Any]]) -> dict[str, Collected]:
    """Sort the journal's lines by setting and batch."""
    found: dict[str, Collected] = {}
    for line in sorted(lines, key=lambda line: line.get("batch", -1)):
        one = found.setdefault(line["cell"], Collected())
        if "timing" in line:
            one.timing = line["timing"]
        elif "refused" in line:
            one.refused = line["refused"]
        elif "anew" in line:
            one.anew += line["anew"]
            one.talking += line["talking"]
        else:
            before, n = len(one.answers), len(line["answers"])
            one.kv_bytes = (one.kv_bytes * before + line["kv_bytes"] * n) / (before + n)
            one.answers += line["answers"]
            one.rows += line["rows"]
            one.text += line["text"]
            one.tokens += line["tokens"]
            one.kept |= {int(number): slots for number, slots in line.get("kept", {}).items()}
    return found


def _profile(rows: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((layer, n) for layer, n in rows)
