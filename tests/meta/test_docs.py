# SPDX-License-Identifier: Apache-2.0
"""The documentation covers what there is: hooks with their signatures, public names, methods, options."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from tokenprune_adapters.authoring import Family, TransformersAdapter

import tokenprune
from tokenprune import hookspecs
from tokenprune.plugins import HOOKS
from tokenprune.signals import SIGNALS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADAPTER_PAGE = (DOCS / "writing-an-adapter.md").read_text()
TEXT = "\n".join(page.read_text() for page in sorted(DOCS.rglob("*.md")))
BUILTIN = [
    name
    for name in tokenprune.list_methods()
    if tokenprune.default_registry().origin("method", name).distribution == "tokenprune-vlm"
]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature_and_its_sentence(hook):
    function = getattr(hookspecs, hook)
    heading = f"## `{hook}{inspect.signature(function)}`".replace("'", "")
    page = (DOCS / "hooks.md").read_text()
    assert heading in page
    assert inspect.getdoc(function) in page


def test_no_hook_is_documented_that_does_not_exist():
    assert set(re.findall(r"tokenprune_\w+s\b", (DOCS / "hooks.md").read_text())) == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_exercised_by_a_test(hook):
    tests = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    kind = hook.removeprefix("tokenprune_")
    assert hook in tests or f"{kind}=[" in tests


@pytest.mark.parametrize("name", tokenprune.__all__)
def test_every_public_name_has_a_docstring_and_is_in_the_reference(name):
    assert (getattr(tokenprune, name).__doc__ or "").strip()
    assert f"`{name}`" in (DOCS / "reference.md").read_text()


@pytest.mark.parametrize("name", tokenprune.__all__)
def test_public_docstrings_are_written_for_this_name(name):
    value = getattr(tokenprune, name)
    if inspect.isclass(value):  # dataclasses get a generated docstring, subclasses inherit one
        own = value.__doc__ or ""
        assert not own.startswith(f"{name}(")
        assert all(own != base.__doc__ for base in value.__mro__[1:])


def test_public_names_are_what_all_says():
    public = {
        name for name, value in vars(tokenprune).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }  # fmt: skip
    assert public == set(tokenprune.__all__)


def page_of(method):
    """The page of a method: its first line is `# name`, or `# name, another-name` for close relatives."""
    for page in sorted((DOCS / "methods").glob("*.md")):
        text = page.read_text()
        if method in text.splitlines()[0].removeprefix("# ").split(", "):
            return text
    pytest.fail(f"write docs/methods/{method}.md; its first line is `# {method}`")


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_method_has_a_page_with_its_paper_and_the_deviations_it_confesses(name):
    method, page = tokenprune.method(name), page_of(name)
    for arxiv in re.findall(r"\d{4}\.\d{5}", method.paper):
        assert arxiv in page
    if method.deviations:
        section = page.split("## Deviations")[1].split("\n## ")[0]
        assert len(re.findall(r"^- ", section, re.M)) >= len(method.deviations)


@pytest.mark.parametrize("kind", ["scorer", "selector", "reducer"])
def test_every_strategy_is_named_in_the_documentation(kind):
    for name in tokenprune.default_registry().names(kind):
        assert re.search(rf"[`\"]{re.escape(name)}[`\"]", TEXT), (
            f"{kind} {name!r} is not in the documentation"
        )


def test_signals_say_what_they_are():
    for signal in SIGNALS.values():
        assert signal.shape.startswith("(")
        assert signal.meaning


def test_the_tutorial_shows_the_package_that_the_tests_install():
    example = DOCS / "examples" / "outlier"
    page = (DOCS / "writing-a-plugin.md").read_text()
    assert (example / "pyproject.toml").read_text() in page
    code = (example / "tokenprune_outlier.py").read_text()
    assert code[code.index("from dataclasses") :] in page


def test_the_page_on_adapters_shows_the_package_that_the_tests_install():
    example = DOCS / "examples" / "periscope"
    assert f"```toml\n{(example / 'pyproject.toml').read_text()}```" in ADAPTER_PAGE
    code = (example / "tokenprune_periscope" / "adapter.py").read_text()
    assert f"```python\n{code[code.index('from collections.abc') :]}```" in ADAPTER_PAGE


def first_column(heading):
    """Names in the first column of the table of a section of the page on adapters."""
    section = ADAPTER_PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)", cell)}


def test_the_page_on_adapters_has_every_field_of_a_table_entry():
    assert first_column("An entry in a table") == {field.name for field in dataclasses.fields(Family)}


# what the engine derives from the methods of the page; not to be overridden
DERIVED = {"slides", "chunked", "carries_state", "tower_depth", "current_projector", "signatures"}
DERIVED |= {"check_parts", "attention_signature"}


def test_the_page_on_adapters_has_every_method_to_override():
    own = {name for base in TransformersAdapter.__mro__ for name in vars(base) if not name.startswith("_")}
    own -= {name for base in tokenprune.ModelAdapter.__mro__ for name in dir(base)} - {"positions"}
    listed = first_column("What `TransformersAdapter` decides")
    assert listed == own - DERIVED
    assert first_column("The vision tower") <= listed


def test_the_documentation_names_no_machine():
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        assert not re.search(r"(/work/|/root/|/home/|/tmp/|localhost)", page.read_text()), page.name


def test_nobody_is_told_to_install_the_unrelated_project_of_our_name():
    texts = [
        p.read_text() for p in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("*/tokenprune*/*.py")]
    ]
    assert not any(re.search(r"pip install (-\S+ )*tokenprune(?![-\w])", text) for text in texts)
