# SPDX-License-Identifier: Apache-2.0
"""Looking names up: near misses, the list, strategies by name, class or instance, adapters by model."""

import pytest
from torch import nn

import tokenprune
from tokenprune.plugins import Plugin
from tokenprune.registry import Registry


class Small(tokenprune.Scorer):
    name = "small"

    def score(self, tokens):
        return None


class Smart(tokenprune.Scorer):
    name = "smart"

    def score(self, tokens):
        return None


class LinearAdapter(tokenprune.ModelAdapter):
    name = "linear"
    provides = {"projector": frozenset()}

    @classmethod
    def matches(cls, model):
        return isinstance(model, nn.Linear)

    def install(self, cuts, record):
        return lambda: None


class AnyAdapter(LinearAdapter):
    name = "any"

    @classmethod
    def matches(cls, model):
        return True


class FailingAdapter(LinearAdapter):
    name = "failing"

    @classmethod
    def matches(cls, model):
        raise ImportError("no such library")


def plugin(name, distribution="tokenprune-test", problem=None, **delivers):
    hooks = {f"tokenprune_{kind}": things for kind, things in delivers.items()}
    return Plugin(name, f"{name}_module", distribution, "1.0", tuple(hooks), problem, delivers=hooks)


SCORERS = plugin("scorers", scorers=[Small, Smart])


def test_names_are_sorted_and_per_kind():
    registry = Registry([plugin("later", scorers=[Smart]), plugin("first", scorers=[Small])])
    assert registry.names("scorer") == ["small", "smart"]
    assert registry.names("selector") == []


def test_an_unknown_name_gets_near_misses_and_the_list():
    with pytest.raises(tokenprune.UnknownNameError) as error:
        Registry([SCORERS]).find("scorer", "smal")
    assert str(error.value) == (
        "unknown scorer 'smal'. Did you mean 'small' or 'smart'? Available: small, smart."
    )


def test_a_name_of_another_kind_is_pointed_out():
    registry = Registry([SCORERS, plugin("methods", methods=[tokenprune.Method("tiny")])])
    with pytest.raises(tokenprune.UnknownNameError, match="It names another kind: method"):
        registry.find("scorer", "tiny")


def test_a_name_far_from_all_others_gets_the_list_only():
    with pytest.raises(
        tokenprune.UnknownNameError, match=r"^unknown scorer 'qqq'\. Available: small, smart\.$"
    ):
        Registry([SCORERS]).find("scorer", "qqq")


@pytest.mark.parametrize("name", [None, 3, ["small"], {"small"}])
def test_what_is_no_name_is_refused_as_such(name):
    with pytest.raises(tokenprune.UnknownNameError, match="the name of a scorer must be a string, got"):
        Registry([SCORERS]).find("scorer", name)


def test_without_any_plugin_the_remedy_is_to_install():
    with pytest.raises(
        tokenprune.PluginError, match=r"no tokenprune plugins are installed; run `pip install -e"
    ):
        Registry([]).find("scorer", "small")


def test_a_broken_plugin_of_that_name_says_what_is_wrong_with_it():
    registry = Registry([SCORERS, plugin("the_broken", problem="the_broken is broken")])
    for name in ("the_broken", "the-broken"):
        with pytest.raises(tokenprune.PluginError, match="^the_broken is broken$"):
            registry.find("scorer", name)


def test_a_clash_names_both_classes_and_both_distributions():
    other = type("Other", (Small,), {})
    registry = Registry([SCORERS, plugin("other", distribution="a-stranger", scorers=[other])])
    with pytest.raises(tokenprune.PluginConflictError) as error:
        registry.find("scorer", "small")
    for part in ("Small of plugin 'scorers'", "Other of plugin 'other'", "tokenprune-test", "a-stranger 1.0"):
        assert part in str(error.value)
    assert registry.find("scorer", "smart") is Smart


def test_origin_says_who_delivers_a_name():
    assert Registry([SCORERS]).origin("scorer", "small") is SCORERS


def test_a_strategy_comes_from_a_name_a_class_or_an_instance():
    registry, instance = Registry([SCORERS]), Small()
    assert type(registry.scorer("small")) is Small
    assert type(registry.scorer(Small)) is Small
    assert registry.scorer(instance) is instance


@pytest.mark.parametrize("given", [3, None, object(), int, tokenprune.selector("topk")])
def test_anything_else_is_no_scorer(given):
    message = r"a scorer must be a name or a tokenprune\.Scorer, got"
    with pytest.raises(tokenprune.UnknownNameError, match=message):
        Registry([SCORERS]).scorer(given)


def test_the_one_adapter_that_knows_the_model_is_found():
    registry = Registry([plugin("a", adapters=[LinearAdapter])])
    assert registry.adapter_for(nn.Linear(1, 1)) is LinearAdapter


def test_a_model_no_adapter_knows_is_refused_with_what_was_tried():
    registry = Registry([plugin("a", adapters=[LinearAdapter])])
    with pytest.raises(tokenprune.UnsupportedModelError) as error:
        registry.adapter_for(nn.ReLU())
    said = str(error.value)
    assert said.startswith("no adapter knows torch.nn.modules.activation.ReLU (tried: linear).")
    assert "docs/writing-an-adapter.md" in said


def test_an_adapter_may_say_what_is_wrong_with_a_model():
    class Knowing(LinearAdapter):
        name = "knowing"

        @classmethod
        def why_not(cls, model):
            return f"{type(model).__name__} has nothing to drop"

    registry = Registry([plugin("a", adapters=[Knowing])])
    with pytest.raises(tokenprune.UnsupportedModelError, match=r"knowing\)\. ReLU has nothing to drop\. "):
        registry.adapter_for(nn.ReLU())
    assert registry.adapter_for(nn.Linear(1, 1)) is Knowing


def test_two_adapters_that_claim_a_model_are_both_named():
    registry = Registry([plugin("a", adapters=[LinearAdapter]), plugin("b", adapters=[AnyAdapter])])
    with pytest.raises(
        tokenprune.UnsupportedModelError, match=r"several adapters claim .*linear of .*any of "
    ):
        registry.adapter_for(nn.Linear(1, 1))
    assert registry.adapter_for(nn.ReLU()) is AnyAdapter


def test_two_adapters_of_one_name_clash_only_where_both_claim_the_model():
    namesake = type("Namesake", (AnyAdapter,), {"name": "linear"})
    registry = Registry([plugin("a", adapters=[LinearAdapter]), plugin("b", adapters=[namesake])])
    with pytest.raises(tokenprune.UnsupportedModelError, match="linear of plugin 'a'.*linear of plugin 'b'"):
        registry.adapter_for(nn.Linear(1, 1))
    assert registry.adapter_for(nn.ReLU()) is namesake


def test_an_adapter_that_fails_to_answer_harms_no_other_and_is_reported():
    registry = Registry([plugin("a", adapters=[FailingAdapter]), plugin("b", adapters=[LinearAdapter])])
    assert registry.adapter_for(nn.Linear(1, 1)) is LinearAdapter
    with pytest.raises(tokenprune.UnsupportedModelError, match="'failing' of plugin 'a'.*no such library"):
        registry.adapter_for(nn.ReLU())


class ExitingAdapter(LinearAdapter):
    name = "exiting"

    @classmethod
    def matches(cls, model):
        raise SystemExit(3)


def test_an_adapter_that_ends_the_process_when_asked_leaves_the_others_to_answer():
    registry = Registry([plugin("a", adapters=[LinearAdapter, ExitingAdapter])])
    assert registry.adapter_for(nn.Linear(1, 1)) is LinearAdapter
    with pytest.raises(tokenprune.UnsupportedModelError, match="adapter 'exiting' of .*: SystemExit: 3"):
        registry.adapter_for(nn.Identity())
