# SPDX-License-Identifier: Apache-2.0
"""The files a comparison leaves: JSON, CSV, plots, and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokenprune_cli.compare.comparison import Compared
from tokenprune_cli.compare.plots import plots
from tokenprune_cli.compare.question_set import QuestionSet
from tokenprune_cli.compare.report import report
from tokenprune_cli.compare.spreadsheet import csv_text
from tokenprune_cli.console.files import write_text
from tokenprune_cli.records import Provenance, to_dict

RECORD, TABLE, REPORT = FILES = "compare.json", "compare.csv", "report.html"


def write_all(
    output: Path, command: str, questions: QuestionSet, compared: Sequence[Compared]
) -> tuple[dict[str, Any], list[Path]]:
    """Write everything; returns the record and the files.

    Raises
    ------
    BadInputError
        When a file cannot be written.
    """
    device = torch.device(compared[0].record["configuration"]["device"])
    record = {
        **to_dict(Provenance.here(device, command=command)),
        "models": [one.record for one in compared],
    }
    texts = {RECORD: json.dumps(record, indent=1) + "\n", TABLE: csv_text(record["models"])}
    drawn = {
        (model["name"], protocol, metric): plots(model, protocol, metric)
        for model in record["models"]
        for protocol in dict.fromkeys(line["protocol"] for line in model["lines"])
        for metric in model["metrics"]
    }
    for (model_name, protocol, metric), by_axis in drawn.items():
        for axis, svg in by_axis.items():
            texts[f"{model_name}/{protocol}-{metric}-{axis}.svg"] = svg
    texts[REPORT] = report(record, questions, compared, drawn)
    files = []
    for name, text in texts.items():
        files.append(output / name)
        write_text(files[-1], text, end="")
    return record, files
