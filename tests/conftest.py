# SPDX-License-Identifier: Apache-2.0
"""Threads for tiny tensors, and installing plugins for the length of one test."""

import logging
import sys
import textwrap

import hypothesis
import pytest
import torch
from deprecations import RaiseDeprecations, forget_what_was_said

import tokenprune

# each needs the environment of its own make target
collect_ignore = ["lmms_eval", "upstream", "vllm"]

# no test measures time; the same examples every run (float32 against float64: one pick in 10^5 is a near tie)
hypothesis.settings.register_profile("tokenprune", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tokenprune")
torch.set_num_threads(1)  # tensors are tiny here: threads would only wait for each other


@pytest.fixture(autouse=True, scope="session")
def _deprecations_are_errors():
    """Python's warnings are errors by pyproject.toml; transformers logs some of its deprecations instead."""
    handler, logger = RaiseDeprecations(), logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _deprecations_are_said_again():
    forget_what_was_said()


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one plugin module, as pip would leave it."""
    site = tmp_path / "site"
    site.mkdir()
    modules = []

    def install(source, *, name="stranger", distribution="tokenprune-stranger", version="1.0"):
        module = f"{distribution}_{name}".replace("-", "_")
        (site / f"{module}.py").write_text("import tokenprune\n" + textwrap.dedent(source))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        with (info / "entry_points.txt").open("a") as points:
            points.write(f"[tokenprune]\n{name} = {module}\n")
        modules.append(module)
        monkeypatch.syspath_prepend(site)
        tokenprune.default_registry.cache_clear()
        return module

    yield install
    for module in modules:
        sys.modules.pop(module, None)
    tokenprune.default_registry.cache_clear()
