# SPDX-License-Identifier: Apache-2.0
"""The committed record of a comparison holds what was to be measured."""

import json
from pathlib import Path

import pytest
from tokenprune_cli.compare.output import csv_text
from tokenprune_cli.compare.plan import ALWAYS

ROOT = Path(__file__).parents[3]
RECORD = "docs/benchmarks/compare.json"


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / RECORD).read_text(encoding="utf-8"))


def test_the_spreadsheet_holds_the_same_figures(record):
    table = (ROOT / RECORD).with_suffix(".csv").read_text(encoding="utf-8")
    assert table == csv_text(record["models"])


def test_what_was_asked_of_the_measurement_is_in_it(record):
    (model,) = record["models"]
    assert model["questions"] >= 500
    for protocol in ("paper", "matched"):
        lines = [line for line in model["lines"] if line["protocol"] == protocol]
        keeps = {line["keep"] for line in lines} - {None}
        assert len(keeps) >= 4
        for keep in keeps:
            assert {line["method"] for line in lines if line["keep"] == keep} >= set(ALWAYS)
    assert all(
        "time_to_first_token_ms" in line and line["flops"]["choosing"] >= 0
        for line in model["lines"]
        if line["refused"] is None
    )


def test_matched_lines_have_matching_rows(record):
    (model,) = record["models"]
    for line in model["lines"]:
        if line["protocol"] == "matched" and line["keep"] and line["refused"] is None:
            exact = line["method"] != "downsample"
            rows = line["visual_rows"]["mean"]
            assert abs(rows - line["keep"]) < 1 if exact else rows <= line["keep"], line["cell"]
