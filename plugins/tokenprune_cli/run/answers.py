# SPDX-License-Identifier: Apache-2.0
"""The answers of a pruned model and of the unpruned one to the same question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.prompts import placed

import tokenprune
from tokenprune_cli.console.failures import BadInputError


@dataclass(frozen=True)
class Answers:
    """The pruned answer, the name of the first method, what it kept, and the unpruned answer if asked for."""

    pruned: str
    method: str
    report: tokenprune.PruningReport
    unpruned: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the answers as JSON has them."""
        unpruned = {} if self.unpruned is None else {"unpruned_answer": self.unpruned}
        return {
            "answer": self.pruned,
            **unpruned,
            "method": self.method,
            "images": [
                {
                    "grid": list(image.layout.grid),
                    "visual_tokens_before": image.n_before,
                    "visual_tokens": image.n_after,
                    "kept": None if image.kept is None else image.kept.tolist(),
                }
                for image in self.report.images
            ],
            "kv_cache_bytes": self.report.kv_bytes,
            "kv_cache_bytes_unpruned": self.report.kv_bytes_unpruned,
        }

    def lines(self) -> list[str]:
        """Return the answer and what was kept; with the unpruned answer, each answer beside its name."""
        kept = f"{self.method}: {self.report}"
        if self.unpruned is None:
            return [self.pruned, kept]
        return [f"pruned:   {self.pruned}", f"unpruned: {self.unpruned}", kept]

    def caption(self) -> list[str]:
        """Return the answers with the names of what gave them."""
        unpruned = [] if self.unpruned is None else [f"{self.unpruned} (unpruned)"]
        return [f"{self.pruned} ({self.method})", *unpruned]


def answer(
    model: Any,
    processor: Any,
    inputs: Mapping[str, Any],
    arguments: Mapping[str, Any],
    max_new_tokens: int,
    unpruned: bool,
) -> Answers:
    """Answer with the model pruned by these arguments of `tokenprune.apply`, and then as it is if asked for.

    Raises
    ------
    BadInputError
        If no visual token reaches the language model.
    """
    ready = placed(model, dict(inputs))

    def generated() -> str:
        output = model.generate(**ready, max_new_tokens=max_new_tokens, do_sample=False)
        new_ids = output[:, ready["input_ids"].shape[1] :]
        text: str = processor.batch_decode(new_ids, skip_special_tokens=True)[0]
        return text.strip()

    with tokenprune.apply(model, **arguments) as handle:
        pruned, report, name = generated(), handle.last, handle.cuts[0].method.name
    if report is None:
        raise BadInputError("no visual token reached the language model, so nothing was pruned")
    return Answers(pruned, name, report, generated() if unpruned else None)
