# SPDX-License-Identifier: Apache-2.0
"""docs/speed.md is what the committed records say."""

from pathlib import Path

import pytest
from pages.speed import PAGE, RECORDS, page, read_records, record_part
from tokenprune_cli.bench.presets import PRESETS

ROOT = Path(__file__).parents[2]


def test_the_page_is_generated_from_the_records():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(read_records(ROOT / RECORDS))


@pytest.mark.parametrize("name", PRESETS)
def test_what_was_not_measured_is_said_to_be_unmeasured(name):
    assert record_part(name, None).endswith("Not measured yet.\n")


def test_the_papers_figures_stand_on_the_page():
    text = page({})
    assert "prefill 2.59 times, end to end 2.30 times faster at 160 of 2880" in text
    assert text.count("Not measured yet.") == len(PRESETS) - 1
