# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/compare.md: what `tokenprune compare` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenprune_cli.compare.table import CONVERSATION, QUESTIONS, conclusions, refusals, table

from .sources import Blocks, read_record, render


def comparison() -> str:
    """A section for each model of the record, with a table for each protocol and metric."""
    record = read_record("compare")
    return render("compare", record=record, models=[_for_template(model) for model in record["models"]])


def score(protocol: str, method: str, keep: str) -> str:
    """The score of one method at one budget, as in "92.1 %"."""
    for model in read_record("compare")["models"]:
        (metric,) = model["metrics"]
        for line in model["lines"]:
            if (line["protocol"], line["method"], str(line["keep"])) == (protocol, method, keep):
                return f"{100 * line['scores'][metric]['value']:.1f} %"
    raise ValueError(f"the record has no {method} at {keep} tokens under the protocol {protocol!r}")


def scores(name: str) -> str:
    """The scores in a record of `tokenprune compare`, a line for each method and budget, with intervals."""
    record = read_record(name)
    (model,) = record["models"]
    (metric,) = model["metrics"]
    lines = []
    for line in model["lines"]:
        score = line["scores"][metric]
        lost = score["minus_unpruned"]
        lines.append(
            {
                "method": line["method"] or "unpruned",
                "keep": line["keep"],
                **_in_percent(score),
                "lost": None if lost is None else _in_percent(lost),
            }
        )
    return render("scores", record=record, model=model, lines=lines, conclusions=conclusions(model, "paper"))


def _in_percent(score: Mapping[str, Any]) -> dict[str, str]:
    """A value and its interval in percent, with one decimal."""
    return {name: f"{100 * score[name]:.1f}" for name in ("value", "low", "high")}


def _for_template(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's part of the record with its tables and conclusions, by protocol and metric."""
    protocols = list(dict.fromkeys(line["protocol"] for line in model["lines"]))
    cases = [(protocol, metric) for protocol in protocols for metric in model["metrics"]]
    later = cases if "conversation" in model else []
    return {
        **model,
        "protocols": protocols,
        "tables": {case: table(model, *case, QUESTIONS).markdown() for case in cases},
        "later": {case: table(model, *case, CONVERSATION).markdown() for case in later},
        "conclusions": {protocol: conclusions(model, protocol) for protocol in protocols},
        "refusals": refusals(model),
    }


BLOCKS: Blocks = {"comparison": comparison, "score": score, "scores": scores}
