# SPDX-License-Identifier: Apache-2.0
"""The page of all methods says what is installed, and methods stay small."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "docs" / "method_table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("method_table", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(table):
    page = table.PAGE.read_text()
    assert table.written(page) == page, "run `python docs/method_table.py`"


def test_every_method_has_its_row_in_both_tables(table):
    page = table.PAGE.read_text()
    for name in table.built_in():
        assert page.count(f"| [{name}](") == len(table.TABLES)


def test_a_typical_plugin_is_within_90_lines_and_a_typical_method_within_150_of_code(table):
    # STYLE section 0
    assert table.median_length() <= 90
    counts = sorted(sum(map(table.lines_of_code, table.files_of(name))) for name in table.built_in())
    assert counts[len(counts) // 2] <= 150


def test_lines_of_code_by_hand(table, tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(
        '# a comment\n"""A\n\ndocstring."""\n\nx = 1\n\n\ndef f():\n    """One."""\n    return x  # 2\n'
    )
    assert table.lines_of_code(path) == 3


def test_a_method_is_made_of_its_own_file_its_parts_and_what_they_import(table):
    assert [path.stem for path in table.files_of("fastv")] == ["fastv", "attention", "topk"]
    assert set(p.stem for p in table.files_of("sparsevlm")) == {
        "sparsevlm",
        "raters",
        "topk",
        "recycle",
        "attention",
    }


def test_a_page_without_a_place_for_a_table_is_refused(table):
    with pytest.raises(ValueError, match="no place for the table 'choices'"):
        table.written("# Methods\n")
