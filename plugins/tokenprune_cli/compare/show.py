# SPDX-License-Identifier: Apache-2.0
"""Printing a comparison's record for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from tokenprune_cli.compare.protocols import EXPLANATIONS
from tokenprune_cli.compare.table import (
    CONVERSATION,
    CONVERSATION_LEGEND,
    LEGEND,
    QUESTIONS,
    conclusions,
    refusals,
    terminal_table,
)


def show(record: Mapping[str, Any], files: Sequence[str], console: Console) -> None:
    """Print tables, what they say, and what cannot be reached and why."""
    for model in record["models"]:
        console.print(
            f"{model['name']}: {model['questions']} questions about {model['pictures']} pictures "
            f"({model['configuration']['questions']['name']}); {model['preprocessing']}",
            markup=False,
        )
        for protocol in dict.fromkeys(line["protocol"] for line in model["lines"]):
            console.print(f"\nProtocol {protocol}. {EXPLANATIONS[protocol]}", markup=False)
            for metric in model["metrics"]:
                console.print(f"\n{metric}", style="italic")
                console.print(terminal_table(model, protocol, metric, QUESTIONS))
            for sentence in conclusions(model, protocol):
                console.print(f"- {sentence}", markup=False)
            if "conversation" in model:
                for metric in model["metrics"]:
                    console.print(f"\nconversation: {metric}", style="italic")
                    console.print(terminal_table(model, protocol, metric, CONVERSATION))
        for reason, number in refusals(model).items():
            console.print(f"[{number}] {reason}", markup=False)
        for method, reason in model["unavailable"].items():
            console.print(f"{method} cannot be used on this model: {reason}", markup=False)
    console.print(LEGEND, markup=False)
    if any("conversation" in model for model in record["models"]):
        console.print(CONVERSATION_LEGEND, markup=False)
    for file in files:
        console.print(file, markup=False, soft_wrap=True)
