# SPDX-License-Identifier: Apache-2.0
"""Generated blocks are up to date, and marks that cannot be filled are refused."""

import re
from pathlib import Path

import fill
import pytest

ROOT = Path(__file__).parents[2]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in fill.PAGES}


@pytest.mark.parametrize("name", [*fill.PAGES, *fill.FILES])
def test_the_page_is_up_to_date(name):
    is_up_to_date = fill.should_be(name) == (ROOT / name).read_text(encoding="utf-8")
    assert is_up_to_date, "run `python docs/tools/fill.py`"


def test_every_page_with_a_block_is_filled():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert {str(page.relative_to(ROOT)) for page in pages if fill.MARK.search(page.read_text())} == set(
        fill.PAGES
    )


def test_every_block_is_on_a_page():
    used = {
        mark["call"].split()[0]
        for text in TEXTS.values()
        for mark in fill.MARK.finditer(text)
        if mark["call"]
    }
    assert used == set(fill.BLOCKS)


def test_no_two_pages_name_a_block_alike():
    assert sum(len(module.BLOCKS) for module in fill.MODULES) == len(fill.BLOCKS)


def test_no_page_has_marks_of_another_kind():
    for name, text in TEXTS.items():
        assert not re.search(r"<!-- (?:[\w -]*: (?:generated|end|written)|end of)", text), name


@pytest.mark.parametrize(
    ("mark", "content"),
    [
        ("score paper fastv 9", "92.1 %"),
        ("score matched random 9", "33.8 %"),
        ("towers-points-lost 72 random stride", "7 to 19"),
        ('towers-points-lost 72 divprune vispruner "attention + diverse"', "0 to 2"),
        ("rows-entering table-b SparseVLM 64", "82.2"),
        ("figure table-b ZOO-Prune 64 GQA", "58.47"),
        ("questions", "541 questions about 40 embedded scenes"),
    ],
)
def test_figures_in_sentences_are_those_of_the_records(mark, content):
    assert (
        fill.filled(f"a <!-- block {mark} --><!-- end -->", fill.BLOCKS).split("-->")[1]
        == f"{content}<!-- end "
    )


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("score paper fastv 10", "the record has no fastv at 10 tokens under the protocol 'paper'"),
        ("figure table-b ZOO-Prune 65 GQA", "table-b has no row of ZOO-Prune at 65 tokens"),
    ],
)
def test_a_figure_that_no_record_gives_is_refused(mark, message):
    with pytest.raises(ValueError, match=message):
        fill.filled(f"a <!-- block {mark} --><!-- end -->", fill.BLOCKS)


BLOCKS = {"figure": lambda of="7", unit="": f"{of}{unit}", "table": lambda: "| a |\n| --- |\n"}


def test_a_block_is_replaced_and_the_rest_stays():
    page = "a\n\n<!-- block table -->\nold\n<!-- end -->\n\nb <!-- block figure -->6<!-- end -->.\n"
    table = "<!-- block table -->\n\n| a |\n| --- |\n\n<!-- end -->"
    new = f"a\n\n{table}\n\nb <!-- block figure -->7<!-- end -->.\n"
    assert fill.filled(page, BLOCKS) == new
    assert fill.filled(new, BLOCKS) == new


def test_arguments_stand_in_the_mark():
    page = 'a <!-- block figure 12 " %" --><!-- end -->'
    assert fill.filled(page, BLOCKS) == 'a <!-- block figure 12 " %" -->12 %<!-- end -->'


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("a\n<!-- block table -->", "the block 'table' has no end"),
        ("<!-- block table -->\n<!-- block figure -->\n<!-- end -->", "the block 'table' has no end"),
        ("a\n<!-- end -->", "line 2 ends a block that has no start"),
        ("<!-- block tabel -->\n<!-- end -->", "there is no block 'tabel'; did you mean 'table'"),
        ("<!-- block x -->\n<!-- end -->", "there is no block 'x'; the blocks are figure, table"),
        ("<!-- block table 3 -->\n<!-- end -->", "the block 'table 3' does not fit its function: too many"),
        (
            "a <!-- block table --><!-- end -->",
            "'table' takes several lines: put its end on a line of its own",
        ),
        (
            "a\n  <!-- block figure --><!-- end -->",
            "'figure' begins a line, where Markdown ends the paragraph",
        ),
    ],
)
def test_marks_that_cannot_be_filled_are_refused(page, message):
    with pytest.raises(ValueError, match=message):
        fill.filled(page, BLOCKS)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of two pages, the second out of date."""
    for name, count in (("first.md", 7), ("second.md", 6)):
        (tmp_path / name).write_text(f"a <!-- block figure -->{count}<!-- end -->\n")
    monkeypatch.setattr(fill, "ROOT", tmp_path)
    monkeypatch.setattr(fill, "PAGES", ("first.md", "second.md"))
    monkeypatch.setattr(fill, "FILES", {})
    monkeypatch.setattr(fill, "BLOCKS", BLOCKS)
    return tmp_path


def test_a_check_names_the_pages_that_are_out_of_date_and_changes_none(checkout, capsys):
    assert fill.main(["--check"]) == 1
    assert capsys.readouterr().out == "second.md is out of date: run python docs/tools/fill.py\n"
    assert "6" in (checkout / "second.md").read_text()
    assert fill.main(["first.md", "--check"]) == 0


def test_filled_pages_pass_the_check(checkout, capsys):
    assert fill.main([]) == 0
    assert capsys.readouterr().out == "filled second.md\n"
    assert fill.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docs/cli.md"], "docs/cli.md has no generated blocks; the pages are first.md, second.md"),
        (["--check", "--demo", "x"], "--demo changes files and --check does not: give one of them"),
    ],
)
def test_bad_words_are_refused_at_the_command_line(checkout, words, message, capsys):
    with pytest.raises(SystemExit):
        fill.main(words)
    assert message in capsys.readouterr().err


def test_an_error_names_the_page(checkout):
    (checkout / "first.md").write_text("<!-- block no -->\n<!-- end -->")
    with pytest.raises(ValueError, match=r"first.md: there is no block 'no'"):
        fill.should_be("first.md")
