# SPDX-License-Identifier: Apache-2.0
"""README.md and docs/cli.md say what the program says."""

import inspect
import json
import re
import shutil
from pathlib import Path

import fill
import pytest
from blocks import readme
from blocks.methods import page_of
from PIL import Image
from tokenprune_cli.commands.check import check
from tokenprune_cli.commands.demo import demo
from tokenprune_cli.commands.listing import KINDS
from tokenprune_cli.commands.run import run

import tokenprune
from tokenprune.trial import PROMISES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CLI_PAGE = (ROOT / "docs" / "cli.md").read_text()


def test_every_method_is_in_the_catalogue_and_has_a_page():
    for name in tokenprune.list_methods():
        (line,) = [line for line in README.splitlines() if line.startswith(f"- [`{name}`](")]
        assert (ROOT / re.search(r"\]\(([^)]*)\)", line)[1]).is_file()


def test_the_demo_in_the_readme_is_of_the_embedded_model():
    record = json.loads((ROOT / "docs" / "benchmarks" / "demo.json").read_text())
    assert record["model"] == "embedded" and record["command"].startswith("tokenprune demo")
    assert record["questions"] >= 500


def test_the_check_in_the_readme_has_every_method_and_promise():
    section = README.split("## Does it work here?")[1].split("\n## ")[0]
    head, *lines = section.split("$ tokenprune check --model embedded\n")[1].splitlines()
    assert [word for word in head.split() if word in PROMISES] == list(PROMISES)
    rows = [line.split()[0] for line in lines[1 : len(tokenprune.list_methods())]]
    assert sorted([*rows, "cdpruner"]) == tokenprune.list_methods()
    assert f"passed: all {len(rows) * len(PROMISES)} checks on embedded" in section


def test_a_method_is_on_the_page_whose_heading_names_it():
    assert page_of("sparsevlm").name == page_of("sparsevlm-plus").name == "sparsevlm.md"
    assert page_of("no-such") is None
    lines = readme.catalogue().splitlines()
    page = "docs/methods/sparsevlm.md"
    linked = [line.split(":")[0] for line in lines if page in line]
    assert linked == [f"- [`sparsevlm`]({page})", f"- [`sparsevlm-plus`]({page})"]
    assert len(lines) == len(tokenprune.list_methods())


def test_the_results_of_a_demo_are_copied_into_docs(tmp_path, monkeypatch):
    output, docs = tmp_path / "output", tmp_path / "docs"
    output.mkdir()
    docs.mkdir()
    shutil.copy(readme.RECORD, output / "demo.json")
    Image.effect_noise((30, 20), 50).convert("RGB").save(output / "all-methods-18-tokens.png")
    monkeypatch.setattr(readme, "RECORD", docs / "demo.json")
    monkeypatch.setattr(readme, "PICTURE", docs / "demo.png")
    filled = []
    monkeypatch.setattr(fill, "should_be", lambda name: filled.append(name) or README)
    assert fill.main(["README.md", "--demo", str(output)]) == 0
    assert filled == ["README.md"]
    assert (docs / "demo.json").read_text() == (output / "demo.json").read_text()
    with Image.open(docs / "demo.png") as picture:
        assert picture.mode == "P" and picture.size == (30, 20)


def test_no_text_installs_the_namesake():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        assert not re.search(r"pip install\s+tokenprune(?!-)", page.read_text()), page


@pytest.mark.parametrize("command", [demo, run, check])
def test_every_option_is_on_the_page(command):
    section = CLI_PAGE.split(f"## tokenprune {command.__name__}")[1].split("\n## ")[0]
    for name in inspect.signature(command).parameters:
        option = "--" + {"as_json": "json"}.get(name, name).replace("_", "-")
        assert f"`{option}" in section, option


def test_every_kind_is_on_the_page():
    assert all(f"`{kind}`" in CLI_PAGE for kind in KINDS)
