# SPDX-License-Identifier: Apache-2.0
"""The plot and the table of a calibration, of a record by hand."""

import dataclasses

import pytest
from tokenprune_calibrate.page import page
from tokenprune_calibrate.plot import figure, plot
from tokenprune_calibrate.record import CalibrationRecord, LadderRecord, RungRecord
from tokenprune_calibrate.words import table
from tokenprune_evaluation.plot_colors import COLORS, MARKERS
from tokenprune_evaluation.records import Provenance, to_dict


def rung(keep, mean, bound, cost, certified=False):
    return RungRecord(keep, 40, mean, bound, 0.01 if certified else None, certified, cost)


@pytest.fixture
def record():
    ladders = [
        LadderRecord("zoo", 0.025, [rung(72, 0.0, 0.08, 0.6, True), rung(36, 0.3, 0.5, 0.4)]),
        LadderRecord("fastv", 0.025, [rung(72, 0.9, 1.0, 0.7)]),
    ]
    goal = {"loss": "disagreement", "limit": 0.1, "confidence": 0.95, "unit": "picture"}
    return CalibrationRecord(
        **to_dict(Provenance.here(command="tokenprune calibrate")), model="m", weights="0", questions="q",
        pictures=40, goal=goal, test="exact binomial", units=40, fewest=29, noise_floor=0.0,
        cost_unit="flops", ladders=ladders,
    )  # fmt: skip


def test_bars_and_markers_stand_inside_the_plot_area(record):
    (axes,) = figure(record).axes
    bottom, top = axes.get_ylim()
    assert (bottom, top) == pytest.approx((-0.05, 1.05))
    bars = [bar.lines[2][0].get_segments() for bar in axes.containers]
    assert [[segment[:, 1].tolist() for segment in segments] for segments in bars] == [
        [[0.0, 0.08], [0.3, 0.5]],
        [[0.9, 1.0]],
    ]
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 0.7


def test_counts_and_rules_of_a_method_have_names_of_their_own(record):
    rules = LadderRecord("zoo", 0.025, [rung("cover(0.1)", 0.2, 0.3, 0.5)])
    both = dataclasses.replace(record, ladders=[record.ladders[0], rules])
    (legend,) = figure(both).legends
    assert [text.get_text() for text in legend.get_texts()] == ["zoo", "zoo, by rule", "limit"]
    assert [row for row in table(both).rows if len(row) == 1] == [("zoo",), ("zoo, by rule",)]
    written = page(both, [], "zoo, 72 tokens")
    assert "<code>tokenprune calibrate --verify</code>" in written and "`" not in written


def test_each_method_has_its_colour_and_marker_and_the_axes_their_names(record):
    drawn = figure(record)
    (axes,) = drawn.axes
    assert axes.get_xlabel() == "operations of the prefill, share of the unpruned model's"
    assert axes.get_ylabel() == "disagreement (mean, upper bound)"
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["zoo", "fastv", "limit"]
    marked = [
        (line.get_marker(), line.get_color()) for line in axes.lines if line.get_label() in ("zoo", "fastv")
    ]
    assert marked == [(MARKERS[0], COLORS[0]), (MARKERS[1], COLORS[1])]
    points = [line for line in axes.lines if line.get_marker() in MARKERS and len(line.get_xdata()) == 1]
    filled = {(float(line.get_xdata()[0]), line.get_markerfacecolor()) for line in points}
    assert filled == {(0.6, COLORS[0]), (0.4, "white"), (0.7, "white")}
    assert plot(record).startswith("<svg")


def test_the_table_names_the_loss(record):
    shown = table(record)
    assert shown.heads == (
        "tokens kept",
        "disagreement, %",
        "upper bound, %",
        "p-value",
        "cost, %",
        "certified",
    )
    assert shown.rows[:2] == [("zoo",), ("72", "0.00", "8.00", "0.01", "60", "yes")]
    assert shown.rows[2] == ("36", "30.00", "50.00", "not tested", "40", "no")
