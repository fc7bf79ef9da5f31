# SPDX-License-Identifier: Apache-2.0
"""The tasks and figures that docs/evaluation.md names are those of the released lmms-eval."""

import csv
import re
from pathlib import Path

import lmms_eval
import pytest

BENCHMARKS = Path(__file__).parents[2] / "docs" / "data" / "benchmarks.csv"
TASKS = Path(lmms_eval.__file__).parent / "tasks"


def task_file(task):
    """The YAML that defines a task."""
    named = re.compile(rf"^task: *[\"']?{re.escape(task)}[\"']?\s*$", re.M)
    (found,) = [path for path in TASKS.rglob("*.yaml") if named.search(path.read_text(encoding="utf-8"))]
    return found.read_text(encoding="utf-8")


def lines():
    with BENCHMARKS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("line", lines(), ids=lambda line: line["column"])
def test_the_task_has_the_figure(line):
    metrics = re.findall(r"- metric: *(\w+)", task_file(line["task"]))
    named = re.findall(r"`(\w+)`", line["result"])
    assert set(named) <= set(metrics)
    assert named or metrics == ["submission"]
