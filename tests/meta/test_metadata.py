# SPDX-License-Identifier: Apache-2.0
"""What a package index shows: links and readme with the repository's address, and none that is made up."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from markdown_it import MarkdownIt

import hatch_build

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/owner/name"
README = (ROOT / "README.md").read_text()


def metadata(folder=ROOT):
    return ProjectMetadata(str(folder), PluginManager()).core


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("TOKENPRUNE_REPOSITORY_URL", raising=False)
    monkeypatch.delenv("TOKENPRUNE_DOCUMENTATION_URL", raising=False)


def test_without_the_address_a_build_names_none():
    core = metadata()
    assert core.urls == {}
    assert core.readme == README and core.readme_content_type == "text/markdown"


def test_an_empty_address_is_none(monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_REPOSITORY_URL", "")  # a variable of a workflow that is not set
    assert metadata().urls == {}


def test_the_links_by_hand(monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_REPOSITORY_URL", f"{ADDRESS}/")
    core = metadata()
    tag = f"v{core.config['version']}"
    assert core.urls == {
        "Homepage": ADDRESS,
        "Documentation": f"{ADDRESS}/tree/{tag}/docs",
        "Source": ADDRESS,
        "Issues": f"{ADDRESS}/issues",
        "Changelog": f"{ADDRESS}/blob/{tag}/CHANGELOG.md",
    }
    monkeypatch.setenv("TOKENPRUNE_DOCUMENTATION_URL", "https://docs.example.org")
    assert metadata().urls["Documentation"] == "https://docs.example.org/"


@pytest.mark.parametrize("given", ["owner/name", "git@example.org:owner/name", "https://", "https://a b"])
def test_what_is_no_address_is_refused(monkeypatch, given):
    monkeypatch.setenv("TOKENPRUNE_REPOSITORY_URL", given)
    with pytest.raises(ValueError, match=f"such as https://HOST/OWNER/NAME, not {re.escape(repr(given))}"):
        metadata()


def targets(text):
    """Where the links and images of rendered Markdown lead."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for part in token.children or ():
            if part.type in ("link_open", "image"):
                yield part.type, part.attrs.get("href") or part.attrs["src"]


def test_every_link_of_the_readme_leads_somewhere_from_an_index(monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_REPOSITORY_URL", ADDRESS)
    before, after = list(targets(README)), list(targets(metadata().readme))
    relative = [link for link in before if not link[1].startswith("https:")]
    assert len(relative) > 30 and len(after) == len(before)
    assert all(target.startswith("https:") for _, target in after)
    for kind, target in relative:
        path = target.partition("#")[0]
        assert (ROOT / path).is_file(), target
        folder = "raw" if kind == "image" else "blob"
        assert (kind, f"{ADDRESS}/{folder}/v{metadata().config['version']}/{target}") in after


def test_links_are_made_absolute_by_hand():
    text = "[a\nb](docs/x.md#y), ![c](i.png), [d](#e), [f](https://g)\n```python\n[i](j)\n```\n[k](l)"
    assert hatch_build.with_absolute_links(text, "https://r", "v1") == (
        "[a\nb](https://r/blob/v1/docs/x.md#y), ![c](https://r/raw/v1/i.png), [d](#e), [f](https://g)\n"
        "```python\n[i](j)\n```\n[k](https://r/blob/v1/l)"
    )


@pytest.mark.parametrize("given", [ADDRESS, ""])
def test_a_source_distribution_keeps_the_address_it_was_built_with(tmp_path, given):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    environment = os.environ | {"TOKENPRUNE_REPOSITORY_URL": given}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    folder = tmp_path / path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as opened:
        names = {Path(name).relative_to(folder.name).as_posix() for name in opened.getnames()}
        for name in ("PKG-INFO", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
            opened.extract(f"{folder.name}/{name}", tmp_path, filter="data")
    assert {".ci/run", ".github/workflows/ci.yml", "SECURITY.md"} <= names
    core = metadata(folder)
    assert core.urls.get("Source") == (given or None)
    assert (f"]({ADDRESS}/blob/" in core.readme) == bool(given)
    assert core.readme.startswith("# tokenprune\n")
