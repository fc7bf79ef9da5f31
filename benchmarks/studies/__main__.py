# SPDX-License-Identifier: Apache-2.0
"""Repeat a study of the paper on the embedded model or any other: `python -m benchmarks.studies NAME`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tokenprune_cli.console.deliver import deliver
from tokenprune_cli.console.failures import plain_errors, quietly
from tokenprune_cli.console.models import Device, Precision
from tokenprune_cli.console.options import (
    Batch,
    InPrecision,
    Metric,
    ModelName,
    OnDevice,
    OnlyJson,
    QuestionFile,
    Scenes,
    TrustRemoteCode,
)
from tokenprune_evaluation.files import check_folder
from tokenprune_evaluation.model_name import model_name

if TYPE_CHECKING:
    from benchmarks.studies.study import StudyRecord


class Name(str, Enum):
    """Studies; see `benchmarks.studies.catalogue`."""

    layers = "layers"
    correlation = "correlation"
    sampling = "sampling"
    combination = "combination"
    normalise = "normalise"
    positions = "positions"
    place = "place"
    precision = "precision"
    combinations = "combinations"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def study(
    name: Annotated[Name, typer.Argument(help="Name of the study.", metavar="NAME")],
    model: ModelName = None,
    questions: QuestionFile = None,
    metric: Metric = None,
    scenes: Scenes = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Only this variant beside the base; may be repeated.", metavar="NAME"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the record to this file, as JSON.", metavar="FILE")
    ] = None,
    batch: Batch = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of answers, in tokens.")] = 8,
    device: OnDevice = Device.auto,
    dtype: InPrecision = Precision.auto,
    trust_remote_code: TrustRemoteCode = False,
    as_json: OnlyJson = False,
) -> None:
    """Repeat one of the paper's studies: layers, correlation, sampling, combination and others."""
    with plain_errors(), quietly():
        from tokenprune_cli.compare.workers import Source
        from tokenprune_cli.console.progress import ProgressBar
        from tokenprune_evaluation.question_set import check_questions
        from tokenprune_evaluation.records import Provenance

        from benchmarks.studies import STUDIES, run_study
        from benchmarks.studies.study import StudyRecord

        check_folder(output)
        chosen = STUDIES[name.value].only(tuple(variant or ()))
        source = Source(model, device, dtype, trust_remote_code, questions, metric, scenes)
        asked = source.load_questions()
        network, processor = source.load_model()
        check_questions(processor, asked)
        with ProgressBar() as progress:
            found = run_study(
                chosen,
                network,
                processor,
                asked,
                max_new_tokens=max_new_tokens,
                batch=batch,
                progress=progress,
            )
        made = Provenance.here(network.device, program="python -m benchmarks.studies")
        record = StudyRecord(**vars(made), model=model_name(model), **found)
        deliver(record, _show, as_json, output)


def _show(record: StudyRecord) -> None:
    from rich.console import Console

    from benchmarks.studies import STUDIES
    from benchmarks.studies.table import ranking_table, score_table

    console = Console(highlight=False)
    about = record.questions
    console.print(STUDIES[record.study].asks, markup=False)
    console.print(
        f"{record.model}; {about['count']} questions about {about['pictures']} pictures", markup=False
    )
    for table in (score_table(record), ranking_table(record)):
        if table.rows:
            console.print(table.rich())
    if record.cells:
        console.print("Intervals: 95 %, paired bootstrap over images; an interval that contains 0 is noise.")


if __name__ == "__main__":
    app()
