# SPDX-License-Identifier: Apache-2.0
"""The page of all methods says what is installed, and methods stay small."""

from blocks import methods


def test_every_method_has_its_row_in_both_tables():
    page = (methods.PAGES / "index.md").read_text()
    for block in methods.BLOCKS:
        table = page.split(f"<!-- block {block} -->")[1].split("<!-- end -->")[0]
        assert all(table.count(f"| [{name}](") == 1 for name in methods.built_in())
    families = page.split("| family |")[1].split("\n\n")[0]
    assert all(f"({methods.page_of(name).name})" in families for name in methods.built_in())


def test_a_typical_plugin_is_within_90_lines_and_a_typical_method_within_180_of_code():
    assert methods.median_length() <= 90
    counts = sorted(sum(map(methods.lines_of_code, methods.files_of(name))) for name in methods.built_in())
    assert counts[len(counts) // 2] <= 180


def test_lines_of_code_by_hand(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(
        '# a comment\n"""A\n\ndocstring."""\n\nx = 1\n\n\ndef f():\n    """One."""\n    return x  # 2\n'
    )
    assert methods.lines_of_code(path) == 3


def test_a_method_is_made_of_its_own_file_its_parts_and_what_they_import():
    assert [path.stem for path in methods.files_of("fastv")] == [
        "fastv",
        "attention",
        "topk",
        "attention_layer",
    ]
    assert set(p.stem for p in methods.files_of("sparsevlm")) == {
        "sparsevlm",
        "nominal_rows",
        "raters",
        "topk",
        "recycle",
        "attention_layer",
    }
