# SPDX-License-Identifier: Apache-2.0
"""README.md, docs/check.md and docs/cli.md say what the program says."""

import inspect
import json
import re
import shutil
from pathlib import Path

import fill
import pytest
from blocks import demo as demo_block
from blocks.methods import page_of
from PIL import Image
from tokenprune_cli.commands.check import check
from tokenprune_cli.commands.demo import demo
from tokenprune_cli.commands.listing import KINDS
from tokenprune_cli.commands.new_plugin import new_plugin
from tokenprune_cli.commands.run import run

import tokenprune
from tokenprune.trial import PROMISES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CHECK_PAGE = (ROOT / "docs" / "check.md").read_text()
CLI_PAGE = (ROOT / "docs" / "cli.md").read_text()


def test_every_method_is_in_the_readme_or_on_a_page_that_is():
    section = README.split("## Methods\n")[1].split("\n## ")[0]
    pages = {(ROOT / link).resolve() for link in re.findall(r"\]\((docs/methods/[^)]*)\)", section)}
    assert all(page.is_file() for page in pages)
    assert {page_of(name) for name in tokenprune.list_methods()} <= pages


def test_the_demo_on_its_page_is_of_the_embedded_model():
    record = json.loads((ROOT / "docs" / "benchmarks" / "demo.json").read_text())
    assert record["model"] == "embedded" and record["command"].startswith("tokenprune demo")
    assert record["questions"] >= 500


def test_the_example_of_check_has_every_method_and_promise():
    section = CHECK_PAGE.split("## Example")[1].split("\n## ")[0]
    head, *lines = section.split("$ tokenprune check --model embedded\n")[1].splitlines()
    assert [word for word in head.split() if word in PROMISES] == list(PROMISES)
    rows = [line.split()[0] for line in lines[1 : len(tokenprune.list_methods())]]
    assert sorted([*rows, "cdpruner"]) == tokenprune.list_methods()
    assert f"passed: all {len(rows) * len(PROMISES)} checks on embedded" in section


def test_a_method_is_on_the_page_whose_heading_names_it():
    assert page_of("sparsevlm").name == page_of("sparsevlm-plus").name == "sparsevlm.md"
    assert page_of("no-such") is None


def test_the_results_of_a_demo_are_copied_into_docs(tmp_path, monkeypatch):
    output, docs = tmp_path / "output", tmp_path / "docs"
    output.mkdir()
    docs.mkdir()
    shutil.copy(demo_block.RECORD, output / "demo.json")
    pictures = {name: docs / copy.name for name, copy in demo_block.PICTURES.items()}
    for name in pictures:
        Image.effect_noise((30, 20), 50).convert("RGB").save(output / name)
    monkeypatch.setattr(demo_block, "RECORD", docs / "demo.json")
    monkeypatch.setattr(demo_block, "PICTURES", pictures)
    filled = []
    monkeypatch.setattr(fill, "should_be", lambda name: filled.append(name) or README)
    assert fill.main(["README.md", "--demo", str(output)]) == 0
    assert filled == ["README.md"]
    assert (docs / "demo.json").read_text() == (output / "demo.json").read_text()
    for copy in pictures.values():
        with Image.open(copy) as picture:
            assert picture.mode == "P" and picture.size == (30, 20)


def test_no_text_installs_the_namesake():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        assert not re.search(r"pip install\s+tokenprune(?!-)", page.read_text()), page


@pytest.mark.parametrize("command", [demo, run, check, new_plugin])
def test_every_option_is_on_the_page(command):
    title = command.__name__.replace("_", "-")
    section = CLI_PAGE.split(f"## tokenprune {title}\n")[1].split("\n## ")[0]
    for name in inspect.signature(command).parameters:
        if command is new_plugin and name == "name":  # an argument
            assert "`NAME`" in section
            continue
        option = "--" + {"as_json": "json"}.get(name, name).replace("_", "-")
        assert f"`{option}" in section, option


def test_every_kind_is_on_the_page():
    assert all(f"`{kind}`" in CLI_PAGE for kind in KINDS)
