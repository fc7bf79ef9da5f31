# SPDX-License-Identifier: Apache-2.0
"""Versions of vLLM: those that were tested, older and newer ones; vLLM itself is not needed for this."""

import sys
import types

import pytest
from tokenprune_vllm import plugin
from tokenprune_vllm.errors import EngineRefusedError
from tokenprune_vllm.families import FAMILIES
from tokenprune_vllm.versions import TESTED, check_version, is_too_old, warn_if_untested

VERSIONS = [  # with what becomes of each
    ("0.32.0", "tested"),
    ("0.32.1+cpu", "tested"),
    ("0.33.0", "tested"),
    ("0.33.0rc2", "tested"),
    ("0.34.0", "untested"),
    ("1.0.0", "untested"),
    ("dev", "untested"),
    ("0.31.9", "refused"),
    ("0.4.33", "refused"),
]


@pytest.mark.parametrize(("version", "outcome"), VERSIONS)
def test_older_versions_are_refused_and_newer_ones_are_warned_of(version, outcome, caplog):
    assert is_too_old(version) is (outcome == "refused")
    if outcome == "refused":
        words = f"vLLM {version} is too old; this release was tested with vLLM 0.32 to 0.33. Install a tested"
        with pytest.raises(EngineRefusedError, match=words.replace("+", r"\+")):
            check_version(version)
        return
    check_version(version)
    warn_if_untested(version)
    assert len(caplog.records) == (outcome == "untested")
    if outcome == "untested":
        assert f"tested with vLLM 0.32 to 0.33, and {version} is installed" in caplog.text


@pytest.mark.parametrize(("version", "outcome"), VERSIONS)
def test_families_are_registered_unless_the_version_is_too_old(version, outcome, monkeypatch):
    registered = {}
    registry = types.SimpleNamespace(register_model=registered.__setitem__, models={})
    vllm = types.ModuleType("vllm")
    vllm.__version__, vllm.ModelRegistry = version, registry
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    guarded = []
    monkeypatch.setattr(plugin.guard, "register", lambda *given, skip: guarded.append((*given, skip)))
    plugin.register()
    expected = {} if outcome == "refused" else FAMILIES
    assert registered == expected and guarded == [(registry, version, set(expected))]


def test_the_tested_range_is_in_order():
    oldest, newest = TESTED
    assert oldest < newest
