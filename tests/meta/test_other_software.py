# SPDX-License-Identifier: Apache-2.0
"""The table of other software in docs/reliability.md: every row names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIRED = (
    "PEFT",
    "accelerate",
    "Trainer",
    "DDP",
    "torch.compile",
    "torch.export",
    "deepcopy",
    "pickle",
    "`save_pretrained`",
    "MPS and XPU",
    "`pipeline`",
    "streamers",
    "assisted generation",
    "quantised caches",
    "offloaded caches",
    "tensor parallelism",
    "continuous batching",
    "`transformers serve`",
)


def rows():
    """The cells of each row."""
    section = (ROOT / "docs/reliability.md").read_text().split("\n## With other software\n")[1]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    assert lines[0] == "| software | behaviour | tested by |"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROWS = rows()


@pytest.mark.parametrize("name", REQUIRED)
def test_what_must_be_there_has_one_row(name):
    assert sum(software.startswith(name) for software, *_ in ROWS) == 1


@pytest.mark.parametrize("row", ROWS, ids=[software for software, *_ in ROWS])
def test_every_row_names_tests_that_exist(row):
    software, behaviour, tested_by = row
    assert software and behaviour
    named = re.findall(r"`(tests/[^`]+)`", tested_by)
    assert named and re.sub(r"`tests/[^`]+`", "", tested_by).strip(" ,") == ""
    for test in named:
        path, _, function = test.partition("::")
        text = (ROOT / path).read_text()
        assert re.search(rf"^def {function}\(" if function else r"^def test_", text, re.M), test
