# SPDX-License-Identifier: Apache-2.0
"""The questions a command is to ask, from a file or about the embedded scenes."""

from __future__ import annotations

from pathlib import Path

from tokenprune_cli.console.failures import BadInputError

SCENES = 40  # about 540 questions


def what_to_ask(questions: Path | None, metric: str | None, scenes: int | None) -> tuple[Path | int, str]:
    """A question file or a number of scenes, and the metric of questions that name none."""
    from tokenprune_cli.evaluation.question_file import DEFAULT_METRIC

    if questions is not None and scenes is not None:
        raise BadInputError("give either --questions or --scenes, not both")
    if questions is None and metric is not None:
        raise BadInputError("--metric goes with --questions; answers about the scenes are exact matches")
    return questions or scenes or SCENES, metric or DEFAULT_METRIC
