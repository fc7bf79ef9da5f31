# SPDX-License-Identifier: Apache-2.0
"""Reports of `compare` and `calibrate` can be read by everybody: headings, words for pictures, contrast."""

import re
from pathlib import Path

import pytest
import site_check
import tokenprune_calibrate
import tokenprune_cli
from contrast import contrast
from tokenprune_calibrate.calibration import calibrate
from tokenprune_calibrate.collecting import Traffic
from tokenprune_calibrate.disagreements import disagreements
from tokenprune_calibrate.goal import Goal
from tokenprune_calibrate.page import page
from tokenprune_cli.compare.output import write_all
from tokenprune_evaluation.plot_colors import COLORS, GREYS
from tokenprune_evaluation.question_set import embedded_scenes

STYLES = {
    "compare": Path(tokenprune_cli.__file__).parent / "compare/report.css",
    "calibrate": Path(tokenprune_calibrate.__file__).parent / "page.html.jinja",
}


@pytest.fixture(scope="module", params=["compare", "calibrate"])
def report(request, compared, questions, untrained_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    if request.param == "compare":
        (folder / compared[0].record["name"]).mkdir()
        write_all(folder, "tokenprune compare", questions, [compared[0]])
        return (folder / "report.html").read_text()
    traffic = Traffic(*untrained_model, embedded_scenes(2), max_new_tokens=2)
    goal = Goal("disagreement", 0.9, 0.6, unit="question")
    result = calibrate(traffic, goal, folder, methods=["divprune"], keeps=[9])
    return page(result.record, disagreements(traffic, result.lines, result.example), result.example.label)


def test_headings_and_pictures_are_in_words(report):
    assert "<img" in report
    assert site_check.problems(report) == []
    assert re.search(r'<html lang="en">', report) and re.search(r"<title>tokenprune \w+", report)


def test_every_plot_has_a_label(report):
    plots = len(re.findall("<svg", report))
    assert plots >= 1
    assert len(re.findall(r'role="img" aria-label="[^"]{20,}">\s*<svg', report)) == plots


def test_tables_scroll_on_a_phone(report):
    assert len(re.findall(r'<div class="wide">\s*<table', report)) == len(re.findall("<table", report)) > 0
    assert re.search(r"\.wide \{ overflow-x: auto; \}", report)
    assert '<meta name="viewport" content="width=device-width' in report


@pytest.mark.parametrize("name", STYLES)
def test_text_can_be_read(name):
    colors = re.findall(r"[ {;]color: (#[0-9a-f]+)", STYLES[name].read_text())
    assert colors
    for color in colors:
        whole = color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])
        assert contrast(whole, "#ffffff") >= 4.5, color


@pytest.mark.parametrize("color", COLORS + GREYS)
def test_lines_and_markers_can_be_seen(color):
    assert contrast(color, "#ffffff") >= 3
