# SPDX-License-Identifier: Apache-2.0
"""`tokenprune new-plugin`: what it writes, and which names it refuses before it writes anything.

That its packages install, are listed and pass their own tests is in tests/third_party.
"""

import ast
from pathlib import Path

import pytest
from tokenprune_cli.app import app
from tokenprune_cli.new_plugin.names import Kind, Names
from tokenprune_cli.new_plugin.package import files_of, write_package
from typer.testing import CliRunner

EXAMPLE = Path(__file__).parents[2] / "docs/examples/outlier"
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
BAD_NAMES = (
    "Far",
    "far_corner",
    "far corner",
    "far--corner",
    "far-",
    "2far",
    "",
    ".",
    "../far",
    "far/corner",
)
BAD_NAMES += ("f\N{LATIN SMALL LETTER A WITH DIAERESIS}r", "far\n")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def invoke(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["new-plugin", *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def written(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [None, "scorer", "selector", "method", "adapter"])
def test_it_writes_four_files_and_names_them(folder, kind):
    result = invoke("far-corner", *([] if kind is None else ["--kind", kind]))
    paths = {"pyproject.toml", "tokenprune_far_corner.py", "test_far_corner.py", "docs/far-corner.md"}
    assert written(folder) == {f"far-corner/{path}" for path in paths}
    assert set(result.stdout.split("\n\n")[0].splitlines()) == {str(Path("far-corner", p)) for p in paths}
    project = (folder / "far-corner/pyproject.toml").read_text()
    assert '[project.entry-points.tokenprune]\nfar-corner = "tokenprune_far_corner"\n' in project
    what = "An adapter" if kind == "adapter" else f"A {kind or 'scorer'}"
    assert f'description = "{what} for tokenprune"' in project


@pytest.mark.parametrize("kind", Kind)
def test_its_files_hold_the_names_and_nothing_of_the_templates(kind):
    files = files_of(Names("far-corner", kind))
    page = files["docs/far-corner.md"]
    assert page.startswith("# far-corner\n") and "## Defaults" in page and "## Deviations" in page
    module, test = files["tokenprune_far_corner.py"], files["test_far_corner.py"]
    assert f"def tokenprune_{kind.value}s()" in module
    assert f"check_{kind.value}(" in test
    if kind is Kind.adapter:
        assert "class FarCornerAdapter(FamilyAdapter):" in module
        assert '{"FarCornerForConditionalGeneration": Family(rows=projector)}' in module
    elif kind is not Kind.method:
        assert f"class FarCorner{kind.value.capitalize()}(tokenprune." in module
    for text in files.values():
        assert "{{" not in text and "{%" not in text and text.endswith("\n") and "\n\n\n\n" not in text
    for code in (module, test):
        assert max(map(len, code.splitlines())) <= 110
        ast.parse(code)


def test_the_example_of_the_documentation_is_what_it_writes():
    files = files_of(Names("outlier", Kind.scorer))
    del files["docs/outlier.md"]
    assert {path: (EXAMPLE / path).read_text().removeprefix(LICENCE) for path in files} == files


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "a name consists of") for name in BAD_NAMES),
        ("tokenprune-far", "without 'tokenprune-'"),
        ("zoo", "there is a scorer of this name"),
        ("topk", "there is a selector of this name"),
        ("zoo-prune", "there is a method of this name"),
        ("generic", "there is an adapter of this name"),
        ("holov", "there is a method of this name"),
        ("cli", "'tokenprune_cli' is installed already"),
        ("vlm", "'tokenprune-vlm' or"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(folder, name, reason):
    result = invoke("--", name, exit_code=2)
    assert reason in result.stderr and repr(name).strip("'") in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert written(folder.parent) == set()


def test_an_adapter_for_a_class_that_has_one_is_refused(folder):
    result = invoke("aya-vision", "--kind", "adapter", exit_code=2)
    assert "'generic' supports AyaVisionForConditionalGeneration already" in result.stderr
    assert written(folder) == set()
    invoke("aya-vision", "--kind", "scorer")


def test_the_name_of_a_broken_plugin_is_taken(folder, install_plugin):
    install_plugin("this is no Python", name="far_corner")
    result = invoke("far-corner", exit_code=2)
    assert "is taken by plugin 'far_corner'" in result.stderr
    assert written(folder) == set()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_directory_that_exists_is_refused(folder, make):
    make(folder / "far-corner")
    assert "'far-corner' exists already" in invoke("far-corner", exit_code=2).stderr
    assert written(folder) <= {"far-corner"}


def test_an_unknown_kind_is_refused(folder):
    assert "reducer" in invoke("far-corner", "--kind", "reducer", exit_code=2).stderr
    assert written(folder) == set()


def test_a_directory_that_cannot_be_made_is_a_sentence(folder):
    name = "a" * 300
    result = invoke(name, exit_code=2)
    assert result.stderr.startswith(f"tokenprune: the directory '{name}' cannot be made: ")


def test_a_file_that_cannot_be_written_is_a_sentence(folder):
    from tokenprune_cli.console.failures import BadInputError

    with pytest.raises(BadInputError, match=r"cannot be written"):
        write_package(folder / "far", {"a": "text", "a/b": "text"})
