# SPDX-License-Identifier: Apache-2.0
"""A comparison as CSV, one line for each score."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

CSV_COLUMNS = (
    "model", "protocol", "method", "keep", "metric", "value", "low", "high", "of_unpruned",
    "minus_unpruned_low", "minus_unpruned_high", "minus_random_low", "minus_random_high", "mean_visual_rows",
    "flops", "time_to_first_token_ms", "saw_the_question", "refused",
)  # fmt: skip


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """All models' lines, one for each metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for record in records:
        for line in record["lines"]:
            head = [record["name"], line["protocol"], line["method"] or "unpruned", line["keep"]]
            tail = [line["saw_the_question"], line["refused"]]
            if line["refused"] is not None:
                writer.writerow([*head, *[""] * 12, *tail])
                continue
            costs = [
                line["visual_rows"]["mean"],
                line["flops"]["total"],
                line.get("time_to_first_token_ms", {}).get("median", ""),
            ]
            for metric, score in line["scores"].items():
                values = [score["value"], score["low"], score["high"], score["of_unpruned"]]
                for other in (score["minus_unpruned"], score["minus_random"]):
                    values += ["", ""] if other is None else [other["low"], other["high"]]
                writer.writerow([*head, metric, *values, *costs, *tail])
    return out.getvalue()
