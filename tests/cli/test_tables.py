# SPDX-License-Identifier: Apache-2.0
"""The table type: terminal, Markdown and HTML of the same cells."""

import re
from pathlib import Path

import pytest
from rich.console import Console
from tokenprune_evaluation.tables import Table


def printed(table, width=80):
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table.rich())
    return [line.rstrip() for line in capture.get().splitlines()]


TABLE = Table(("method", "KV\nkB"), [("a|b", "7"), ("keep 9",), ("[c]", "<10>")], title="Costs")


def test_terminal_aligns_breaks_headings_and_prints_markup_literally():
    assert printed(TABLE) == [
        "Costs",
        "          KV",
        "method    kB",
        "────────────",
        "a|b        7",
        "",
        "keep 9",
        "[c]     <10>",
    ]


def test_markdown_escapes_bars_and_joins_broken_headings():
    assert TABLE.markdown() == (
        "**Costs**\n\n| method | KV kB |\n| --- | ---: |\n| a\\|b | 7 |\n| **keep 9** |  |\n| [c] | <10> |"
    )


def test_html_escapes_and_makes_a_tbody_of_each_section():
    right = ' style="text-align: right"'
    assert TABLE.html().splitlines() == [
        "<table>",
        "<caption>Costs</caption>",
        f"<thead><tr><th>method</th><th{right}>KV kB</th></tr></thead>",
        "<tbody>",
        f"<tr><td>a|b</td><td{right}>7</td></tr>",
        "</tbody>",
        "<tbody>",
        '<tr><th class="section" colspan="2">keep 9</th></tr>',
        f"<tr><td>[c]</td><td{right}>&lt;10&gt;</td></tr>",
        "</tbody>",
        "</table>",
    ]


def test_sections_styles_and_alignment():
    table = Table(("a", "b"), [("1", "2"), ("3", "4")], align="rl", styles={1: "bold"}, sections={1})
    assert printed(table) == ["a  b", "────", "1  2", "", "3  4"]
    assert table.markdown().splitlines()[1] == "| ---: | --- |"
    assert table.html().count("<tbody>") == 2
    assert '<tr class="bold"><td style="text-align: right">3</td><td>4</td></tr>' in table.html()
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table.rich())
    assert "\x1b[1m3" in capture.get() and "\x1b[1m1" not in capture.get()


def test_long_cells_are_cut_off_or_broken():
    rows = [("abcdefghijkl", "1")]
    assert printed(Table(("x", "y"), rows), width=10)[-1].startswith("abcdefg…")
    assert printed(Table(("x", "y"), rows, wrap=True), width=10)[-2:] == ["abcdefg  1", "hijkl"]


def test_a_table_without_rows():
    empty = Table(("x", "y"), [])
    assert printed(empty) == ["x  y", "────"]
    assert empty.markdown() == "| x | y |\n| --- | ---: |"
    assert "<tbody>" not in empty.html()


def test_rows_and_alignment_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"row 1 has 3 cells and the table 2 columns: \['1', '2', '3'\]"):
        Table(("a", "b"), [("1", "2"), ("1", "2", "3")])
    with pytest.raises(ValueError, match="a letter for each of 2 columns, l or r, not 'lc'"):
        Table(("a", "b"), [], align="lc")


def test_no_other_module_lays_out_tables():
    root = Path(__file__).parents[2]
    folders = ("plugins/tokenprune_cli", "benchmarks", "docs/tools")
    files = [file for folder in folders for file in (root / folder).rglob("*.py") if file.name != "tables.py"]
    by_hand = re.compile(r"rich\.table|rich import box|' \| '\.join|\" \| \"\.join")
    assert [file.name for file in files if by_hand.search(file.read_text())] == []
