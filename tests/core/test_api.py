# SPDX-License-Identifier: Apache-2.0
"""apply() decides what can be known before it touches the model; a toy adapter shows what it hands on."""

import gc
import weakref

import pytest
import torch
from torch import nn

import tokenprune
from tokenprune import (
    AlreadyPrunedError,
    Budget,
    BudgetError,
    IncompatibleError,
    OptionError,
    PluginConflictError,
    PruningReport,
    UnknownNameError,
    UnsupportedModelError,
)

TOY = """
from torch import nn

class Toy(nn.Linear):
    pass

class ToyAdapter(tokenprune.ModelAdapter):
    name = "toy"
    provides = {"projector": frozenset({"pre_features", "projector"}), "vision": frozenset()}
    events = []

    @classmethod
    def matches(cls, model):
        return isinstance(model, Toy)

    def check_together(self, cuts):
        pass  # several are fine

    def install(self, cuts, record):
        if self.model.bias is None:
            raise RuntimeError("installation failed")
        self.events.append(("install", tuple(cuts)))
        self.model.report = record
        def undo():
            self.events.append("undo")
            del self.model.report
        return undo

@tokenprune.hookimpl
def tokenprune_adapters():
    return [ToyAdapter]
"""


@pytest.fixture
def toy(install_plugin):
    """The module of a plugin with a toy model and its adapter."""
    import importlib

    name = install_plugin(TOY)
    tokenprune.list_adapters()
    return importlib.import_module(name)


@pytest.fixture
def model(toy):
    return toy.Toy(2, 2)


def test_an_adapter_that_records_no_traces_says_so(model):
    message = "the adapter 'toy' records no traces; leave trace=True out"
    with pytest.raises(tokenprune.IncompatibleError, match=message):
        tokenprune.apply(model, scorer="uniform", keep=1, trace=True)
    assert not tokenprune.is_pruned(model)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"method": "zoo-prun"}, UnknownNameError, "unknown method 'zoo-prun'. Did you mean 'zoo-prune'"),
        ({"method": "zoo"}, UnknownNameError, "It names another kind: scorer"),
        ({"scorer": "zo"}, UnknownNameError, "unknown scorer 'zo'. Did you mean 'zoo'"),
        ({"selector": "divers"}, UnknownNameError, "unknown selector 'divers'. Did you mean 'diverse'"),
        ({"reducer": "mean"}, UnknownNameError, "unknown reducer 'mean'"),
        ({"method": ["divprune", "xyz"], "keep": [2, 1]}, UnknownNameError, "unknown method 'xyz'"),
        ({"method": 5}, UnknownNameError, "the name of a method must be a string, got 5"),
        ({"scorer": 5}, UnknownNameError, "a scorer must be a name or a tokenprune.Scorer, got 5"),
        ({"method": "divprune", "scorer": "zoo"}, OptionError, "either method or scorer/selector/reducer"),
        ({"method": "divprune", "selector": "topk"}, OptionError, "either method or scorer/selector/reducer"),
        ({"method": []}, OptionError, "give at least one method"),
        ({"seed": "one"}, OptionError, "seed must be an integer, got 'one'"),
        ({"seed": True}, OptionError, "seed must be an integer, got True"),
        ({"keep": None}, BudgetError, "exactly one of keep"),
        ({"keep_ratio": 0.5}, BudgetError, "exactly one of keep"),
        ({"keep": 0}, BudgetError, "at least 1"),
        ({"keep": -3}, BudgetError, "at least 1"),
        ({"keep": True}, BudgetError, "keep must be an integer"),
        ({"keep": 64.0}, BudgetError, "keep must be an integer"),
        ({"keep": "64"}, BudgetError, "keep must be an integer"),
        ({"keep": None, "keep_ratio": 1.5}, BudgetError, r"\(0, 1\]"),
        ({"keep": None, "keep_ratio": 0}, BudgetError, r"\(0, 1\]"),
        ({"method": ["divprune", "random"]}, BudgetError, "2 methods need a list of 2 budgets"),
        (
            {"method": ["divprune", "random"], "keep": [8]},
            BudgetError,
            r"2 methods were given, and keep=\[8\]",
        ),
        ({"keep": [4, 8]}, BudgetError, r"not one for each image: 1 method was given, and keep=\[4, 8\]"),
        ({"keep": []}, BudgetError, r"1 method was given, and keep=\[\]"),
        (
            {"keep": None, "keep_ratio": (0.5, 0.2)},
            BudgetError,
            r"keep_ratio=\[0.5, 0.2\]. All images of a call have the same keep. Use keep_ratio= to keep",
        ),
        (
            {"keep": None, "schedule": {2: 4}, "budget": "average"},
            OptionError,
            "budget='average' sets what keep counts, but a schedule {layer: rows} has no keep",
        ),
        ({"method": ["divprune", "random"], "keep": [8, 0]}, BudgetError, "at least 1"),
        ({"keep": [8], "keep_ratio": [0.5]}, BudgetError, "exactly one of keep"),
        ({"min_tokens": -1}, BudgetError, "min_tokens must be an integer, 0 or more, got -1"),
        ({"min_tokens": True}, BudgetError, "min_tokens must be an integer, 0 or more, got True"),
        ({"stage": "retina"}, IncompatibleError, "stage must be one of 'vision', 'projector', 'decoder'"),
        ({"stage": "decoder"}, IncompatibleError, "adapter 'toy' cuts at: projector, vision"),
        ({"scope": "page"}, IncompatibleError, "scope must be one of 'image', 'tile', 'split', got 'page'"),
        ({"newlines": "some"}, IncompatibleError, "newlines must be one of"),
        ({"positions": "shuffled"}, IncompatibleError, "positions must be one of"),
        (
            {"scorer": "zoo", "stage": "vision"},
            IncompatibleError,
            "scorer 'zoo' needs the signal pre_features, projector, which the adapter 'toy' cannot give",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_touched(model, toy, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        tokenprune.apply(model, **({"keep": 4} | arguments))
    assert not tokenprune.is_pruned(model)
    assert toy.ToyAdapter.events == []


@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_positions_the_model_does_not_allow_are_refused(model, toy, method):
    toy.ToyAdapter.positions = ("original",)
    with pytest.raises(IncompatibleError, match="positions='contiguous' is not possible on this model"):
        tokenprune.apply(model, method=method, keep=4, positions="contiguous")


def test_a_model_nobody_knows_is_refused(toy):
    with pytest.raises(UnsupportedModelError, match=r"no adapter knows torch\.nn\..*ReLU \(tried: .*toy.*\)"):
        tokenprune.apply(nn.ReLU(), keep=4)


@pytest.mark.parametrize("model", ["llava-1.5-7b", None, {"model": 1}, nn.Linear])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UnsupportedModelError, match=r"apply\(\) takes a torch model, got "):
        tokenprune.apply(model, keep=4)


def cut_of(handle):
    (cut,) = handle.cuts
    return cut


@pytest.mark.parametrize(
    ("arguments", "name", "scorer", "selector"),
    [
        ({}, "zoo-exact", "zoo-exact", "diverse"),
        ({"scorer": "zoo"}, "zoo+topk", "zoo", "topk"),
        ({"selector": "diverse"}, "uniform+diverse", "uniform", "diverse"),
        ({"scorer": "random", "selector": "hybrid"}, "random+hybrid", "random", "hybrid"),
        ({"method": "divprune"}, "divprune", "uniform", "diverse"),
    ],
)
def test_what_is_left_out_is_filled_in_as_documented(model, arguments, name, scorer, selector):
    with tokenprune.apply(model, keep=4, **arguments) as handle:
        method = cut_of(handle).method
    assert (method.name, method.scorer.name, method.selector.name) == (name, scorer, selector)


def test_instances_and_methods_are_taken_as_they_are(model):
    scorer, selector = tokenprune.scorer("zoo", n_directions=3), tokenprune.selector("topk")
    with tokenprune.apply(model, scorer=scorer, selector=selector, keep=4) as handle:
        assert cut_of(handle).method.scorer == scorer
    mine = tokenprune.Method("mine", scorer=scorer, selector=selector, scope="tile", newlines="keep")
    with tokenprune.apply(model, method=mine, keep=4) as handle:
        assert cut_of(handle).method == mine


def test_overrides_win_and_what_is_left_none_is_the_methods_own(model):
    with tokenprune.apply(model, method="zoo-prune", keep=4) as handle:
        assert (cut_of(handle).method.scope, cut_of(handle).method.newlines) == ("tile", "drop")
    with tokenprune.apply(model, method="zoo-prune", keep=4, scope="image", positions="original") as handle:
        method = cut_of(handle).method
    assert (method.scope, method.newlines, method.positions) == ("image", "drop", "original")


@pytest.mark.parametrize(
    ("allowed", "arguments", "rule"),
    [
        (("contiguous", "original"), {"method": "zoo-exact"}, "contiguous"),  # which leaves it to the model
        (("original", "contiguous"), {"method": "zoo-exact"}, "original"),
        (("contiguous", "original"), {"method": "divprune"}, "contiguous"),
        (("contiguous", "original"), {"method": tokenprune.Method("m", positions="original")}, "original"),
        (("contiguous",), {"method": tokenprune.Method("m", positions="original")}, "contiguous"),
        (("contiguous", "original"), {"method": "zoo-exact", "positions": "original"}, "original"),
    ],
)
def test_the_position_rule_is_decided_once_and_stands_on_the_cut(model, toy, allowed, arguments, rule):
    toy.ToyAdapter.positions = allowed
    with tokenprune.apply(model, keep=4, **arguments) as handle:
        assert cut_of(handle).positions == rule
        assert cut_of(handle).closes_up == (rule == "contiguous")


def test_the_seed_reaches_parts_that_have_one_unless_they_chose_their_own(model):
    with tokenprune.apply(model, method="zoo-prune", keep=4, seed=7) as handle:
        assert cut_of(handle).method.scorer.seed == 7
    own = tokenprune.scorer("random", seed=3)
    with tokenprune.apply(model, scorer=own, keep=4, seed=7) as handle:
        assert cut_of(handle).method.scorer.seed == 3


def test_lists_make_one_cut_each(model, toy):
    with tokenprune.apply(model, method=["zoo-prune", "random"], keep=[8, 4], min_tokens=5) as handle:
        cuts = handle.cuts
    assert [(c.method.name, c.budget, c.min_tokens) for c in cuts] == [
        ("zoo-prune", Budget(8), 5),
        ("random", Budget(4), 5),
    ]
    assert toy.ToyAdapter.events == [("install", cuts), "undo"]
    with tokenprune.apply(model, method=("divprune",), keep_ratio=[0.25]) as handle:
        assert cut_of(handle).budget == Budget(keep_ratio=0.25)


def test_a_pruned_model_is_refused_until_its_handle_is_removed(model):
    handle = tokenprune.apply(model, keep=4)
    assert tokenprune.is_pruned(model)
    with pytest.raises(AlreadyPrunedError, match=r"call remove\(\) on its handle first"):
        tokenprune.apply(model, keep=2)
    handle.remove()
    assert not tokenprune.is_pruned(model)
    tokenprune.apply(model, keep=2).remove()


def test_removing_twice_undoes_once(model, toy):
    handle = tokenprune.apply(model, keep=4)
    assert handle.is_active
    handle.remove()
    handle.remove()
    assert not handle.is_active
    assert toy.ToyAdapter.events.count("undo") == 1


def test_the_with_block_undoes_also_after_an_error(model, toy):
    with pytest.raises(KeyError), tokenprune.apply(model, keep=4):
        raise KeyError
    assert not tokenprune.is_pruned(model)
    assert toy.ToyAdapter.events[-1] == "undo"


def test_a_failed_installation_leaves_the_model_unpruned(toy):
    model = toy.Toy(2, 2, bias=False)
    with pytest.raises(RuntimeError, match="installation failed"):
        tokenprune.apply(model, keep=4)
    assert not tokenprune.is_pruned(model)


def test_the_handle_shows_the_last_report(model):
    handle = tokenprune.apply(model, keep=4)
    assert handle.last is None
    for report in (PruningReport(images=()), PruningReport(images=(), kv_bytes=3)):
        model.report(report)
        assert handle.last is report
    assert repr(handle) == "<PruningHandle zoo-exact keep=4, adapter toy, active>"
    handle.remove()
    assert repr(handle) == "<PruningHandle zoo-exact keep=4, adapter toy, removed>"
    assert handle.last is report


def test_a_pruned_model_that_is_dropped_is_freed(toy):
    model = toy.Toy(2, 2)
    tokenprune.apply(model, keep=4)
    trace = weakref.ref(model)
    del model
    toy.ToyAdapter.events.clear()
    gc.collect()
    assert trace() is None


def test_a_clash_with_a_builtin_name_hits_only_those_who_ask_for_it(model, install_plugin):
    install_plugin(
        """
        class Zoo(tokenprune.Scorer):
            name = "zoo"

            def score(self, tokens):
                return None

        @tokenprune.hookimpl
        def tokenprune_scorers():
            return [Zoo]
        """,
        distribution="another-stranger",
    )
    with pytest.raises(PluginConflictError, match=r"tokenprune-vlm .* another-stranger 1\.0"):
        tokenprune.apply(model, scorer="zoo", keep=4)
    with pytest.raises(PluginConflictError):
        tokenprune.apply(model, method="zoo-prune", keep=4)
    tokenprune.apply(model, method="zoo-exact", keep=4).remove()


def test_lists_of_names():
    assert {"random", "uniform", "zoo", "zoo-exact"} <= set(tokenprune.list_scorers())
    assert {"diverse", "hybrid", "topk"} <= set(tokenprune.list_selectors())
    assert {"divprune", "random", "stride", "zoo-exact", "zoo-prune"} <= set(tokenprune.list_methods())
    for names in (tokenprune.list_scorers(), tokenprune.list_methods(), tokenprune.list_adapters()):
        assert names == sorted(names)


def test_strategies_by_name_with_options():
    assert tokenprune.scorer("zoo", n_directions=3, step_size=0.1).n_directions == 3
    assert tokenprune.selector("diverse", normalise="max").normalise == "max"
    assert tokenprune.method("zoo-prune", n_directions=3).scorer.n_directions == 3
    with pytest.raises(UnknownNameError, match="unknown reducer 'mean'"):
        tokenprune.reducer("mean")


def test_the_three_lines_of_the_design_run_on_bare_tensors():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(24, 12, generator=draw)
    M = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 16))
    tokens = tokenprune.VisualTokens(features=M(X).detach(), signals={"pre_features": X, "projector": M})
    scores = tokenprune.scorer("zoo", n_directions=64, step_size=0.01, seed=0).score(tokens)
    chosen = tokenprune.selector("diverse").select(tokens, scores, keep=8)
    whole = tokenprune.method("zoo-prune").select(tokens, keep=8)
    assert chosen.indices.tolist() == whole.indices.tolist()
    assert chosen.order[0] == scores.argmax()
