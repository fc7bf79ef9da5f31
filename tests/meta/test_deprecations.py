# SPDX-License-Identifier: Apache-2.0
"""A deprecation logged by transformers fails the test whose code called for it, each time."""

import functools
import logging

import pytest
from deprecations import CHECKOUT, forget_what_was_said, is_ours

MESSAGE = "`past_key_values` are deprecated. Use `cache` instead."


def library(source, name="transformers.models.llava"):
    """A module of a library: what `source` defines as `call`."""
    module = {"__name__": name, "logging": logging, "functools": functools}
    exec(compile(source, f"/site-packages/{name.replace('.', '/')}.py", "exec"), module)
    return module["call"]


warn = library(f"def call(message={MESSAGE!r}): logging.getLogger('transformers.models').warning(message)")
through = library("def call(function): return functools.partial(function)()", "torch.nn.modules.module")


@pytest.mark.parametrize("call", [warn, lambda: through(warn)], ids=["directly", "through torch"])
def test_what_a_test_calls_for_is_an_error(call):
    with pytest.raises(AssertionError, match=f"test_deprecations calls for something deprecated: {MESSAGE}"):
        call()


@pytest.mark.parametrize("name", ["accelerate.hooks", "transformers.generation.candidate_generator"])
def test_what_somebody_else_calls_for_is_none_of_ours(name):
    library("def call(function): return function()", name)(warn)


def test_other_messages_pass():
    warn("the processor is now fast by default")


def test_ours_are_the_packages_wherever_installed_the_tests_and_the_pages():
    installed = "/usr/lib/python3/site-packages"
    assert is_ours("tokenprune_cli.bench.timing", f"{installed}/tokenprune_cli/bench/timing.py")
    assert is_ours("page_docs_transformers_md", str(CHECKOUT / "docs/transformers.md"))
    assert not is_ours("accelerate.hooks", f"{installed}/accelerate/hooks.py")
    assert not is_ours("accelerate.hooks", str(CHECKOUT / ".venv/lib/site-packages/accelerate/hooks.py"))


@pytest.mark.parametrize("time", ["first", "second"])
def test_it_is_said_in_every_test(time):
    from transformers.utils import logging as transformers_logging

    logger = transformers_logging.get_logger("transformers.models")
    with pytest.raises(AssertionError, match="deprecated"):
        logger.warning_once(MESSAGE)


def test_what_was_said_once_can_be_said_again(monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, "warning_once", functools.lru_cache(said.append), raising=False)
    for _ in range(2):
        logging.Logger.warning_once("a")
        logging.Logger.warning_once("a")
        forget_what_was_said()
    assert said == ["a", "a"]
