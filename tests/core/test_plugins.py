# SPDX-License-Identifier: Apache-2.0
"""Finding and loading plugins; what a stranger can do wrong, and that it stays his own problem."""

import sys
from importlib.metadata import EntryPoint

import pytest

import tokenprune
from tokenprune.plugins import HOOKS, discover

GOOD = """
class Bright(tokenprune.Scorer):
    name = "bright"

    def score(self, tokens):
        return tokens.features.float().mean(-1)

@tokenprune.hookimpl
def tokenprune_scorers():
    return [Bright]
"""


def by_name(name):
    (found,) = [p for p in discover() if p.name == name]
    return found


def test_the_builtins_are_found_by_entry_point_and_all_work():
    ours = [p for p in discover() if p.distribution == "tokenprune-vlm"]
    assert {"zoo", "zoo_exact", "uniform", "random", "diverse", "topk", "hybrid"} <= {p.name for p in ours}
    assert [p.problem for p in ours if p.problem] == []


def test_hooks_are_the_five_of_the_design():
    assert sorted(HOOKS) == [
        "tokenprune_adapters",
        "tokenprune_methods",
        "tokenprune_reducers",
        "tokenprune_scorers",
        "tokenprune_selectors",
    ]


def test_a_strangers_plugin_is_found_the_same_way(install_plugin):
    module = install_plugin(GOOD)
    plugin = by_name("stranger")
    assert (plugin.module, plugin.distribution, plugin.version) == (module, "tokenprune-stranger", "1.0")
    assert plugin.hooks == ("tokenprune_scorers",)
    assert [c.__name__ for c in plugin.delivers["tokenprune_scorers"]] == ["Bright"]
    assert tokenprune.scorer("bright").name == "bright"
    assert tokenprune.default_registry().origin("scorer", "bright").distribution == "tokenprune-stranger"


def test_ours_come_first_then_the_rest_by_distribution(install_plugin):
    install_plugin(GOOD, name="b", distribution="a-late-one")
    install_plugin(GOOD.replace("bright", "dark"), name="a", distribution="a-early-one")
    names = [(p.distribution, p.name) for p in discover()]
    assert names[-2:] == [("a-early-one", "a"), ("a-late-one", "b")]
    assert names[:-2] == sorted(names[:-2])


IMPORTS_NOTHING = "import a_package_that_is_not_there"
MISSPELT = GOOD.replace("def tokenprune_scorers", "def tokenprune_scorer")
WITH_ARGUMENT = GOOD.replace("def tokenprune_scorers()", "def tokenprune_scorers(model)")
WRONG_BASE = GOOD.replace("class Bright(tokenprune.Scorer)", "class Bright")
AN_INSTANCE = GOOD.replace("[Bright]", "[Bright()]")
ABSTRACT = GOOD.replace("def score", "def scores")
A_CLASS_AS_METHOD = GOOD.replace("tokenprune_scorers", "tokenprune_methods")


NO_EXCEPTION = """
class Stop(BaseException):
    pass
"""
METACLASS = (
    """
class Meta(type(tokenprune.Scorer)):
    def __getattribute__(cls, name):
        if name == "{asked}" and "ready" in globals():
            raise {error}("no {asked}")
        return super().__getattribute__(name)
"""
    + GOOD.replace("(tokenprune.Scorer)", "(tokenprune.Scorer, metaclass=Meta)")
    + "ready = True\n"
)
NO_REPR = """
class Meta(type):
    def __repr__(cls):
        raise RuntimeError("no repr")
""" + GOOD.replace("(tokenprune.Scorer)", "(metaclass=Meta)")
NO_STR = """
class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")
raise Silent()
"""
NO_ATTRIBUTES = """
class Odd:
    @property
    def __class__(self):
        raise SystemExit("no class")
odd = Odd()
""" + GOOD.replace("[Bright]", "[Bright, odd]").replace("tokenprune_scorers", "tokenprune_methods")


@pytest.mark.parametrize(
    ("source", "what", "remedy"),
    [
        (NO_EXCEPTION + "raise Stop('here')", "could not be imported: Stop: here", "DISABLE"),
        ("raise GeneratorExit", "could not be imported: GeneratorExit", "DISABLE"),
        ("import asyncio\nraise asyncio.CancelledError", "could not be imported: CancelledError", "DISABLE"),
        (NO_STR, "could not be imported: Silent. ", "DISABLE"),
        (
            NO_EXCEPTION + GOOD.replace("return [Bright]", "raise Stop('there')"),
            "failed in tokenprune_scorers: Stop: there",
            "its authors",
        ),
        (METACLASS.format(asked="name", error="RuntimeError"), "inspected: RuntimeError: no name", "DISABLE"),
        (METACLASS.format(asked="name", error="SystemExit"), "inspected: SystemExit: no name", "DISABLE"),
        (
            METACLASS.format(asked="__flags__", error="OSError"),
            "inspected: OSError: no __flags__",
            "DISABLE",
        ),
        (NO_REPR, "could not be inspected: RuntimeError: no repr", "DISABLE"),
        (NO_ATTRIBUTES, "could not be inspected: SystemExit: no class", "DISABLE"),
        (
            IMPORTS_NOTHING,
            "could not be imported: ModuleNotFoundError: .*a_package_that_is_not_there",
            "DISABLE",
        ),
        ("1 / 0", "could not be imported: ZeroDivisionError", "TOKENPRUNE_DISABLE_PLUGINS=stranger"),
        (
            "raise SystemExit(3)",
            "could not be imported: SystemExit: 3",
            "TOKENPRUNE_DISABLE_PLUGINS=stranger",
        ),
        (MISSPELT, "has a hook that does not fit: .*'tokenprune_scorer'", "correct the name"),
        (WITH_ARGUMENT, "has a hook that does not fit: .*tokenprune_scorers", "each without arguments"),
        (WRONG_BASE, "delivers <class .*Bright'> from tokenprune_scorers", "subclasses of tokenprune.Scorer"),
        (
            AN_INSTANCE,
            "delivers <.*Bright object.* from tokenprune_scorers",
            "subclasses of tokenprune.Scorer",
        ),
        (ABSTRACT, "delivers Bright from tokenprune_scorers without score", "Implement what is missing"),
        (
            A_CLASS_AS_METHOD,
            "delivers <class .*Bright'> from tokenprune_methods",
            "objects of tokenprune.Method",
        ),
        (GOOD.replace('"bright"', '"Bright"'), "with the name 'Bright'", "lower case, without spaces"),
        (
            GOOD.replace('"bright"', '"bright one"'),
            "with the name 'bright one'",
            "lower case, without spaces",
        ),
        (GOOD.replace('name = "bright"', "pass"), "with the name None", "lower case, without spaces"),
        (GOOD.replace("return [Bright]", "return"), "failed in tokenprune_scorers: TypeError", "its authors"),
        (
            GOOD.replace("return [Bright]", "1 / 0"),
            "failed in tokenprune_scorers: ZeroDivision",
            "its authors",
        ),
        (GOOD.replace("@tokenprune.hookimpl", ""), "implements no hook", "@tokenprune.hookimpl"),
        ("", "implements no hook", "@tokenprune.hookimpl"),
    ],
)
def test_a_broken_plugin_is_named_with_its_remedy_and_harms_no_other(install_plugin, source, what, remedy):
    module = install_plugin(source)
    plugin = by_name("stranger")
    assert plugin.delivers == {}
    assert plugin.problem.startswith(f"plugin 'stranger' ({module}) of distribution tokenprune-stranger 1.0 ")
    with pytest.raises(tokenprune.PluginError, match=f"(?s){what}.*{remedy}"):
        tokenprune.scorer("stranger")
    with pytest.raises(
        tokenprune.UnknownNameError, match=r"Broken plugins, see `tokenprune plugins`: stranger"
    ):
        tokenprune.scorer("bright")
    assert tokenprune.scorer("zoo").name == "zoo"


@pytest.mark.parametrize(
    "source", ["raise KeyboardInterrupt", GOOD.replace("return [", "raise KeyboardInterrupt\n    [")]
)
def test_an_interruption_is_no_plugins_problem(install_plugin, source):
    install_plugin(source)
    with pytest.raises(KeyboardInterrupt):
        discover()


@pytest.mark.parametrize("value", ["stranger", "tokenprune-stranger", "other, stranger ,"])
def test_a_plugin_is_switched_off_by_name_or_distribution_without_being_imported(
    install_plugin, monkeypatch, value
):
    install_plugin("raise RuntimeError('imported')")
    monkeypatch.setenv("TOKENPRUNE_DISABLE_PLUGINS", value)
    plugin = by_name("stranger")
    assert plugin.disabled
    assert plugin.problem is None
    with pytest.raises(tokenprune.UnknownNameError, match="Disabled by TOKENPRUNE_DISABLE_PLUGINS: stranger"):
        tokenprune.scorer("bright")


def test_entry_points_of_one_name_from_two_distributions_both_count(install_plugin):
    install_plugin(GOOD, name="zoo", distribution="zoo-of-a-stranger")
    assert {p.distribution for p in discover() if p.name == "zoo"} == {"tokenprune-vlm", "zoo-of-a-stranger"}
    assert {"bright", "zoo"} <= set(tokenprune.list_scorers())


def test_a_clash_of_names_is_an_error_only_for_that_name(install_plugin):
    install_plugin(GOOD.replace('"bright"', '"zoo"'))
    with pytest.raises(tokenprune.PluginConflictError) as error:
        tokenprune.scorer("zoo")
    said = str(error.value)
    assert "the scorer name 'zoo' is offered twice" in said
    assert "distribution tokenprune-vlm" in said
    assert "distribution tokenprune-stranger 1.0" in said
    assert "TOKENPRUNE_DISABLE_PLUGINS=stranger" in said
    assert tokenprune.scorer("zoo-exact").name == "zoo-exact"
    assert tokenprune.method("divprune").name == "divprune"
    assert tokenprune.default_registry().conflicts() == [said]


def test_switching_one_off_settles_a_clash(install_plugin, monkeypatch):
    install_plugin(GOOD.replace('"bright"', '"zoo"'))
    monkeypatch.setenv("TOKENPRUNE_DISABLE_PLUGINS", "stranger")
    assert type(tokenprune.scorer("zoo")).__module__ == "tokenprune_plugins.zoo"


def test_entry_points_can_be_given_instead_of_looked_up():
    point = EntryPoint("topk", "tokenprune_plugins.topk", "tokenprune")
    (plugin,) = discover([point])
    assert plugin.distribution == "unknown"
    assert [c.name for c in plugin.delivers["tokenprune_selectors"]] == ["topk"]


def test_hooks_are_called_once_however_often_names_are_asked_for(install_plugin):
    source = GOOD.replace("    return [Bright]", "    CALLS.append(1)\n    return [Bright]")
    module = install_plugin("CALLS = []\n" + source)
    for _ in range(3):
        tokenprune.scorer("bright")
        tokenprune.list_scorers()
    assert sys.modules[module].CALLS == [1]
