# SPDX-License-Identifier: Apache-2.0
"""How the site is made: navigation, signatures, links into a repository, and the check of each page."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import api_pages
import pytest
import repository_links
import site_check
from blocks import signals

from tokenprune.signals import SIGNALS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text()
REFERENCE = (DOCS / "reference.md").read_text()


@pytest.fixture(scope="module")
def navigation():
    spec = importlib.util.spec_from_file_location("navigation", DOCS / "navigation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages():
    """Every page below docs, as mkdocs lists them."""
    excluded = ("examples", "tools", "overrides")
    found = [path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))]
    return [path.as_posix() for path in found if path.parts[0] not in excluded]


def leaves(items):
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            for below in item.values():
                yield from leaves(below)


def test_every_page_is_in_the_navigation_once(navigation):
    found = list(leaves(navigation.navigation(pages())))
    assert sorted(found) == sorted(pages())


def test_every_name_in_the_navigation_is_a_page(navigation):
    names = [name for section in navigation.SECTIONS.values() for name in section]
    assert len(set(names)) == len(names)
    for name in set(names) - {"api"}:  # made when the site is built
        assert (DOCS / f"{name}.md").is_file() or (DOCS / name / "index.md").is_file(), name


def test_the_navigation_by_hand(navigation):
    given = ["faq.md", "index.md", "methods/a.md", "methods/index.md", "zebra.md", "api/b.md"]
    assert navigation.navigation(given) == [
        {"Start": ["index.md", "faq.md"]},
        {"Methods and models": [{"Methods": ["methods/index.md", "methods/a.md"]}]},
        {"Reference": [{"Signatures": ["api/b.md"]}]},
        {"More": ["zebra.md"]},
    ]


TABLES = """# Reference

## Pruning a model

| name | what it is |
|---|---|
| `apply` | prunes, see `remove` |
| `one`, `two` | both |

## Modules

| module | purpose |
|---|---|
| `tokenprune.functional` | tensors |

### `tokenprune.functional`

| name | what it does |
|---|---|
| `min_max` | scales |
"""


def test_each_table_of_names_is_a_page():
    assert api_pages.groups(TABLES) == [
        api_pages.Group("Pruning a model", "tokenprune", ("apply", "one", "two")),
        api_pages.Group("tokenprune.functional", "tokenprune.functional", ("min_max",)),
    ]
    first, second = api_pages.groups(TABLES)
    assert (first.path, second.path) == ("api/pruning-a-model.md", "api/tokenprune-functional.md")
    assert re.findall("^::: (.*)$", first.page(), re.M) == [
        "tokenprune.apply",
        "tokenprune.one",
        "tokenprune.two",
    ]
    assert re.findall("^::: (.*)$", second.page(), re.M) == [
        "tokenprune.functional",
        "tokenprune.functional.min_max",
    ]


def test_names_in_the_first_cell_become_links():
    changed = api_pages.linked(TABLES).splitlines()
    before = TABLES.splitlines()
    lines = {new: old for new, old in zip(changed, before, strict=True) if new != old}
    assert lines == {
        "| [`apply`][tokenprune.apply] | prunes, see `remove` |": "| `apply` | prunes, see `remove` |",
        "| [`one`][tokenprune.one], [`two`][tokenprune.two] | both |": "| `one`, `two` | both |",
        "| [`min_max`][tokenprune.functional.min_max] | scales |": "| `min_max` | scales |",
    }


def test_every_name_of_the_reference_can_be_imported():
    for group in api_pages.groups(REFERENCE):
        module = importlib.import_module(group.module)
        assert [name for name in group.names if not hasattr(module, name)] == []
    assert len({group.path for group in api_pages.groups(REFERENCE)}) == 12


def test_every_signal_is_in_the_table_with_the_methods_that_need_it():
    rows = [line for line in signals.table().splitlines() if line.startswith("| `")]
    assert [re.match(r"\| `(\w+)`", row)[1] for row in rows] == list(SIGNALS)
    (row,) = [row for row in rows if row.startswith("| `final_norm`")]
    assert "| function | the language model's last norm |" in row and "[dart](methods/dart.md)" in row


GOOD = '<h1>a</h1><h2>b<a>¶</a></h2><h3>c</h3><h2>d</h2><img src="x.png" alt="x"><script src="y.js"></script>'


@pytest.mark.parametrize(
    ("html", "found"),
    [
        (GOOD, []),
        (GOOD + '<link rel="canonical" href="https://example.org/"><a href="https://example.org">x</a>', []),
        ("<h2>b</h2>", ["0 headings of level 1, there must be one"]),
        ("<h1>a</h1><h1>b</h1>", ["2 headings of level 1, there must be one"]),
        (
            "<h1>a</h1><h3>b <code>c</code><a>¶</a></h3>",
            ["heading 'b c' of level 3 follows one of level 1"],
        ),
        ('<h1>a</h1><img src="x.png">', ["the image 'x.png' has no alternative text"]),
        ('<h1>a</h1><img src="x.png" alt=" ">', ["the image 'x.png' has no alternative text"]),
        (
            '<h1>a</h1><script src="https://example.org/x.js"></script>',
            ["<script> loads 'https://example.org/x.js' from another host"],
        ),
        (
            '<h1>a</h1><link rel="stylesheet" href="//example.org/x.css">',
            ["<link> loads '//example.org/x.css' from another host"],
        ),
    ],
)
def test_a_page_is_checked(html, found):
    assert site_check.problems(html) == found


def test_the_checks_are_part_of_the_build():
    hooks = re.search(r"^hooks:\n((?:  - .*\n)+)", CONFIG, re.M)[1]
    paths = re.findall(r"- (\S+)", hooks)
    assert "docs/tools/site_check.py" in paths
    assert all((ROOT / path).is_file() for path in paths)
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


def test_nothing_is_fetched_and_no_repository_is_named():
    assert "  font: false\n" in CONFIG
    assert not re.search(r"https?://(?!HOST)", CONFIG)
    assert "data-md-component" not in (DOCS / "overrides/partials/source.html").read_text()
    assert not re.search(r"url\(|@import", (DOCS / "stylesheets/site.css").read_text())


def test_files_that_a_page_names_are_linked():
    url = "https://example.org/a/b/"
    code = "<code>tokenprune/api.py</code>"
    link = f'<a href="https://example.org/a/b/blob/main/tokenprune/api.py">{code}</a>'
    assert repository_links.linked(f"<p>{code}</p>", url) == f"<p>{link}</p>"
    for left_alone in (
        "<code>tokenprune/no_such.py</code>",
        "<code>tokenprune/../tokenprune/api.py</code>",
        "<code>apply</code>",
        f"<pre>{code}</pre>",
        f'<a href="x">{code}</a>',
    ):
        assert repository_links.linked(left_alone, url) == left_alone


def test_the_files_of_a_release_are_those_of_its_tag(monkeypatch):
    monkeypatch.setattr(repository_links, "REF", "v0.2.0")
    html = repository_links.linked("<code>tokenprune/api.py</code>", "https://example.org/a/b")
    assert html.startswith('<a href="https://example.org/a/b/blob/v0.2.0/tokenprune/api.py">')
    config = SimpleNamespace(repo_url="https://example.org/a/b")
    assert repository_links.on_config(config).edit_uri == "edit/v0.2.0/docs/"


def test_versions_are_chosen_by_the_theme():
    assert "\nextra:\n  version:\n    provider: mike\n" in CONFIG
