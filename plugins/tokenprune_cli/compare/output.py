# SPDX-License-Identifier: Apache-2.0
"""The files that a comparison writes: JSON, CSV, plots, and the report."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenprune_evaluation.files import write_text
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.records import Provenance, dumps, to_dict

from tokenprune_cli.compare.comparison import ModelResult
from tokenprune_cli.compare.looks import looks
from tokenprune_cli.compare.plots import plots
from tokenprune_cli.compare.report import report

RECORD, TABLE, REPORT = FILES = "compare.json", "compare.csv", "report.html"
CSV_COLUMNS = (
    "model", "protocol", "method", "keep", "metric", "value", "low", "high", "of_unpruned",
    "minus_unpruned_low", "minus_unpruned_high", "minus_random_low", "minus_random_high", "mean_visual_rows",
    "flops", "time_to_first_token_ms", "saw_the_question", "refused",
)  # fmt: skip


def write_all(
    output: Path, command: str, questions: QuestionSet, compared: Sequence[ModelResult]
) -> tuple[dict[str, Any], list[Path]]:
    """Write all files; return the record and their paths.

    Raises
    ------
    BadInputError
        If a file cannot be written.
    """
    models = [model.record for model in compared]
    device = torch.device(models[0]["configuration"]["device"])
    record = {**to_dict(Provenance.here(device, command=command)), "models": models}
    drawn_as = looks(models)
    drawn = {
        (model["name"], protocol, metric): plots(model, protocol, metric, drawn_as)
        for model in models
        for protocol in dict.fromkeys(line["protocol"] for line in model["lines"])
        for metric in model["metrics"]
    }
    texts = {RECORD: dumps(record) + "\n", TABLE: csv_text(models)}
    for (name, protocol, metric), by_axis in drawn.items():
        texts |= {f"{name}/{protocol}-{metric}-{axis}.svg": svg for axis, svg in by_axis.items()}
    texts[REPORT] = report(record, questions, compared, drawn)
    for name, text in texts.items():
        write_text(output / name, text, end="")
    return record, [output / name for name in texts]


def csv_text(models: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines of all models as CSV, one for each metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for model in models:
        for line in model["lines"]:
            row = {name: line[name] for name in ("protocol", "keep", "saw_the_question", "refused")}
            row |= {"model": model["name"], "method": line["method"] or "unpruned"}
            if line["refused"] is not None:
                writer.writerow(row)
                continue
            row["mean_visual_rows"] = line["visual_rows"]["mean"]
            row["flops"] = line["flops"]["total"]
            row["time_to_first_token_ms"] = line["time_to_first_token_ms"]["median"]
            for metric, score in line["scores"].items():
                row["metric"] = metric
                row |= {name: score[name] for name in ("value", "low", "high", "of_unpruned")}
                for difference in ("minus_unpruned", "minus_random"):
                    for end in ("low", "high"):
                        row[f"{difference}_{end}"] = (score[difference] or {}).get(end)
                writer.writerow(row)
    return text.getvalue()
