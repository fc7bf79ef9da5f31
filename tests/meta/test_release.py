# SPDX-License-Identifier: Apache-2.0
"""The steps of a release that can be tried without publishing, and that the workflow takes them."""

import re
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import docs_versions
import pytest
import release
import try_wheel
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")
}
RELEASE = WORKFLOWS["release"]["jobs"]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
HEADING = "## 1.2.3 (2026-12-24)"


@pytest.fixture
def checkout(tmp_path):
    """The three files that name a version, ready for a release of 1.2.3 unless told otherwise."""

    def write(
        heading=HEADING, version="1.2.3", cited="1.2.3", released="date-released: 2026-12-24\n", line="- a\n"
    ):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(
            f"# Changes\n\nText.\n\n{heading}\n\n{line}\n## 1.2.2\n\n- b\n"
        )
        (tmp_path / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n{released}")
        return tmp_path

    return write


def test_a_release_that_is_ready(checkout):
    assert release.problems("v1.2.3", checkout()) == []


def test_a_version_under_way_needs_no_date(checkout):
    assert release.problems(None, checkout(heading="## 1.2.3", released="")) == []


@pytest.mark.parametrize(
    ("tag", "files", "wrong"),
    [
        ("v1.2.4", {}, "the tag is v1.2.4, of version 1.2.3 it must be v1.2.3"),
        ("1.2.3", {}, "the tag is 1.2.3, of version 1.2.3 it must be v1.2.3"),
        (None, {"cited": "1.2.0"}, "CITATION.cff has version 1.2.0, pyproject.toml 1.2.3"),
        (None, {"heading": "## 1.2.2", "released": ""}, "CHANGELOG.md has no section '## 1.2.3'"),
        (None, {"line": ""}, "the section '## 1.2.3' of CHANGELOG.md is empty"),
        ("v1.2.3", {"released": ""}, "CITATION.cff has no line 'date-released: YYYY-MM-DD'"),
        (
            None,
            {"heading": "## 1.2.3"},
            "CITATION.cff has date-released 2026-12-24, CHANGELOG.md no date",
        ),
        (
            None,
            {"released": "date-released: 2026-12-25\n"},
            "CITATION.cff has date-released 2026-12-25, CHANGELOG.md 2026-12-24",
        ),
    ],
)
def test_what_stands_in_the_way(checkout, tag, files, wrong):
    assert release.problems(tag, checkout(**files)) == [wrong]


def test_a_release_without_dates_names_both_files(checkout):
    assert release.problems("v1.2.3", checkout(heading="## 1.2.3", released="")) == [
        "CHANGELOG.md does not date '## 1.2.3'; a release is '## 1.2.3 (YYYY-MM-DD)'",
        "CITATION.cff has no line 'date-released: YYYY-MM-DD'",
    ]


@pytest.mark.parametrize("heading", ["## 1.2.3 (24.12.2026)", "## 1.2.3, 2026-12-24"])
def test_a_heading_of_another_form_is_refused(checkout, heading):
    with pytest.raises(SystemExit, match=f"the heading '{re.escape(heading[3:])}' is not like"):
        release.problems("v1.2.3", checkout(heading=heading))


def test_the_notes_are_the_section_of_the_version(checkout):
    assert release.section("1.2.3", checkout(line="- a\n- b\n  c\n")) == ("2026-12-24", "- a\n- b\n  c\n")
    assert release.section("1.2.2", checkout()) == (None, "- b\n")
    assert release.section("1.2", checkout()) is None


def test_this_checkout_names_one_version(capsys):
    assert release.main(["check"]) == 0
    assert capsys.readouterr().out.endswith(f"version {release.version()}\n")
    assert release.main(["check", "v9.9.9"]) == 1
    assert f"the tag is v9.9.9, of version {release.version()}" in capsys.readouterr().err
    assert release.main(["version", "--minor"]) == 0
    assert capsys.readouterr().out == ".".join(release.version().split(".")[:2]) + "\n"
    assert release.main(["notes"]) == 0
    assert capsys.readouterr().out.startswith("- ")


def options(wheel, python=None, borrow=None):
    return Namespace(wheel=wheel, python=python, borrow=borrow)


def test_what_is_no_wheel_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no\.whl is no wheel; `\.ci/release\.py build` writes one"):
        try_wheel.main(options(tmp_path / "no.whl"))


def test_an_environment_of_another_version_lends_nothing(tmp_path, monkeypatch):
    wheel = tmp_path / "a.whl"
    wheel.touch()
    monkeypatch.setattr(try_wheel, "ask", lambda python: (python, {"a": "3.10", "b": "3.12"}[python]))
    with pytest.raises(
        SystemExit, match=r"--borrow b is Python 3\.12, which lends nothing to a, Python 3\.10"
    ):
        try_wheel.main(options(wheel, ["a"], "b"))


def test_the_packages_of_a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as opened:
        for name in ("b/__init__.py", "a/__init__.py", "a/c/__init__.py", "a-1.dist-info/METADATA"):
            opened.writestr(name, "")
    assert try_wheel.packages(tmp_path / "a.whl") == ["a", "b"]


@pytest.fixture
def small_wheel(tmp_path):
    """A wheel with a command `tokenprune` that shows what it is started in."""
    code = (
        "import os, sys\n"
        "def main():\n"
        "    if os.path.exists('fail'): sys.exit('it failed')\n"
        "    print(sys.argv[1], 'PYTHONPATH' in os.environ, os.environ['HF_HUB_OFFLINE'], os.listdir())\n"
    )
    files = {"tokenprune.py": "", "tokenprune_small/__init__.py": code}
    info = "tokenprune_vlm-1.0.dist-info"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: tokenprune-vlm\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = "[console_scripts]\ntokenprune = tokenprune_small:main\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = tmp_path / "tokenprune_vlm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_a_wheel_is_run_in_an_environment_of_its_own(small_wheel, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert try_wheel.main(options(small_wheel, borrow=sys.executable)) == 0
    said = capfd.readouterr().out
    version = "{}.{}".format(*sys.version_info)
    steps = [f"Python {version}: {step}" for step in ("installing", "tokenprune demo", "tokenprune check")]
    *before, line = said.splitlines()
    assert before == steps
    assert line.startswith(f"Python {version}: {small_wheel.name} with torch ")
    assert line.endswith("; check False 1 ['environment']")


def test_a_command_that_fails_ends_it_with_what_it_said(small_wheel, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "fail").touch()
    with pytest.raises(SystemExit, match=r"tokenprune demo --scenes 2 .*\n.*it failed"):
        try_wheel.attempt(small_wheel, sys.executable, sys.executable, folder)


def test_the_workflow_tries_each_python_that_we_say():
    classified = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    tried = RELEASE["try"]["strategy"]["matrix"]["python"]
    assert tried == list(try_wheel.PYTHONS)
    assert set(classified) <= set(tried)
    assert classified[0] == re.search(r'^requires-python = ">=(.+)"$', PYPROJECT, re.M)[1] == tried[0]
    assert set(WORKFLOWS["ci"]["jobs"]["gate"]["strategy"]["matrix"]["python"]) <= set(classified)


def test_the_workflow_publishes_only_a_tag_that_was_checked_and_tried():
    assert WORKFLOWS["release"][True]["push"] == {"tags": ["v*"]}  # YAML reads the key `on` as true
    (check,) = [step for step in RELEASE["build"]["steps"] if "release.py check" in step.get("run", "")]
    assert "github.ref_name" in check["env"]["TAG"]
    assert RELEASE["try"]["needs"] == "build" and RELEASE["publish"]["needs"] == "try"
    assert RELEASE["publish"]["if"] == "github.event_name == 'push'"
    assert RELEASE["notes"]["needs"] == RELEASE["docs"]["needs"] == "publish"


def test_no_job_may_do_more_than_it_needs():
    writes = {
        name: {right for right, level in job["permissions"].items() if level == "write"}
        for name, job in RELEASE.items()
    }
    assert WORKFLOWS["release"]["permissions"] == {}
    assert writes == {
        "build": set(),
        "try": set(),
        "publish": {"id-token"},
        "notes": {"contents"},
        "docs": {"contents"},
    }


def test_every_step_of_the_workflow_exists(capsys):
    text = (ROOT / ".github/workflows/release.yml").read_text()
    steps = set(re.findall(r"release\.py (\w+)", text)) - {"py"}
    assert steps == {"check", "build", "try", "notes", "version"}
    for step in steps:
        with pytest.raises(SystemExit) as ended:
            release.main([step, "--help"])
        assert ended.value.code == 0
    assert "mike deploy --push --update-aliases" in text


def test_the_published_pages_are_checked(tmp_path):
    for folder in (".", "0.0", "0.2"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "index.html").touch()
    (tmp_path / "latest").symlink_to("0.2")
    listed = (
        '[{"version": "0.2", "title": "0.2", "aliases": ["latest"]},'
        ' {"version": "0.0", "title": "0.0", "aliases": []}]'
    )
    (tmp_path / "versions.json").write_text(listed)
    assert docs_versions.wrong(tmp_path, ["0.0", "0.2"]) == []
    (tmp_path / "0.0" / "index.html").unlink()
    (tmp_path / "versions.json").write_text("[]")
    first, second = docs_versions.wrong(tmp_path, ["0.0", "0.2"])
    assert first.startswith("versions.json is [], not [{'version': '0.2'")
    assert second == f"{tmp_path / '0.0'} has no index.html"
