# SPDX-License-Identifier: Apache-2.0
"""docs/speed.md has a section for every preset, and says what was not measured."""

from pathlib import Path

import pytest
from blocks import speed
from blocks.sources import has_record
from tokenprune_cli.bench.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "micro"])
def test_every_preset_has_a_section(name):
    section = PAGE.split(f"## {name}\n")[1].split("\n## ")[0]
    assert f"<!-- block speed {name} -->" in section
    assert (PRESETS[name].about[1:] + ".") in section
    assert ("Not measured yet." in section) == (not has_record(name))


def test_what_was_not_measured_is_said_to_be_unmeasured():
    assert speed.speed("micro") == "Not measured yet."


def test_the_papers_figures_stand_on_the_page():
    assert "prefill 2.59 times, end to end 2.30 times faster at 160 of 2880" in PAGE
