# SPDX-License-Identifier: Apache-2.0
"""Methods: options go to the part that has them, sizes are checked, the choices are the parts' own."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import tokenprune
from tokenprune import IncompatibleError, Layout, Method, OptionError, PluginError, Selection, VisualTokens
from tokenprune.testing import example_tokens


@dataclass(frozen=True)
class Ramp(tokenprune.Scorer):
    """Scores slot i with slope * i."""

    name: ClassVar[str] = "ramp"
    slope: float = 1.0
    seed: int = 0

    @property
    def needs(self):
        return frozenset({"pre_features"})

    def score(self, tokens):
        return self.slope * torch.arange(len(tokens), dtype=torch.float32)


@dataclass(frozen=True)
class Best(tokenprune.Selector):
    """Keeps the highest scores, all but `fewer` of them."""

    name: ClassVar[str] = "best"
    fewer: int = 0
    seed: int = 0

    def select(self, tokens, scores, keep):
        return Selection.from_order(scores.topk(keep - self.fewer).indices)


RAMP = Method("ramp-best", scorer=Ramp(), selector=Best(), scope="tile", paper="a paper")


def test_select_scores_then_chooses_and_hands_the_scores_on():
    chosen = RAMP.select(example_tokens(6), keep=2)
    assert chosen.indices.tolist() == [4, 5]
    assert chosen.order.tolist() == [5, 4]
    assert chosen.scores.tolist() == [0, 1, 2, 3, 4, 5]


def test_options_reach_the_part_that_has_them():
    method = RAMP.with_options(slope=-1.0)
    assert method.scorer == Ramp(slope=-1.0)
    assert method.select(example_tokens(6), keep=2).indices.tolist() == [0, 1]


def test_an_option_of_two_parts_reaches_both():
    method = RAMP.with_options(seed=5)
    assert (method.scorer.seed, method.selector.seed) == (5, 5)


def test_options_of_the_method_itself_are_its_fields():
    method = RAMP.with_options(scope="image", positions="original", newlines="keep", stage="vision")
    assert (method.scope, method.positions, method.newlines, method.stage) == (
        "image", "original", "keep", "vision",
    )  # fmt: skip
    assert method.scorer == Ramp()


def test_with_options_leaves_the_method_itself_alone():
    RAMP.with_options(slope=3.0, scope="image")
    assert RAMP.scorer == Ramp()
    assert RAMP.scope == "tile"
    with pytest.raises(dataclasses.FrozenInstanceError):
        RAMP.scope = "image"


def test_parts_given_by_name_take_options_too():
    method = Method("by-name", scorer="random", selector="topk").with_options(seed=3)
    assert method.scorer == tokenprune.scorer("random", seed=3)


@pytest.mark.parametrize("option", ["sloop", "name", "scorer", "selector", "reducer"])
def test_an_unknown_option_is_refused_with_the_list(option):
    with pytest.raises(OptionError) as error:
        RAMP.with_options(**{option: 1})
    said = str(error.value)
    assert said.startswith(f"method 'ramp-best' has no option '{option}'; it has ")
    assert "slope" in said
    assert "fewer" in said


def test_an_unknown_option_of_a_strategy_is_refused_with_the_list():
    with pytest.raises(OptionError, match=r"^scorer 'ramp' has no option 'sloop'; it has slope, seed$"):
        Ramp().with_options(sloop=2)
    with pytest.raises(OptionError, match="^selector 'topk' has no option 'k'; it has no options$"):
        tokenprune.selector("topk", k=2)


def test_an_option_error_is_a_type_error():
    with pytest.raises(TypeError):
        tokenprune.method("zoo-prune", nothing=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", "retina"),
        ("positions", "shuffled"),
        ("scope", "page"),
        ("newlines", "both"),
        ("scope", ["tile"]),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(field, value):
    with pytest.raises(IncompatibleError, match=f"^{field} must be one of .*, got "):
        Method("wrong", **{field: value})


def test_keep_is_bounded_by_the_image():
    assert RAMP.n_keep(Layout((1, 4, 6)), 10) == 10
    assert RAMP.n_keep(Layout((1, 4, 6)), 24) == 24
    assert RAMP.n_keep(Layout((1, 4, 6)), 25) == 24
    assert len(RAMP.select(example_tokens(6), keep=100)) == 6


def test_a_least_share_holds_in_tiles_too():
    """A quarter of 16 tokens in two tiles, of which a budget of 2 would keep one each."""
    method = tokenprune.method("divprune", at_least=0.25, scope="tile", newlines="drop")
    layout = Layout((1, 1, 16), torch.arange(16) // 8, None, 2)
    assert method.n_keep(layout, 2) == 4
    tokens = VisualTokens(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), layout=layout)
    kept = method.select(tokens, 2).indices
    assert ((kept < 8).sum(), (kept >= 8).sum()) == (2, 2)


def test_needs_and_parts():
    assert RAMP.needs == {"pre_features"}
    assert RAMP.parts == (Ramp(), Best())
    assert tokenprune.method("zoo-prune").needs == {"pre_features", "projector"}
    assert tokenprune.method("divprune").needs == frozenset()


def test_resolving_turns_names_into_strategies():
    method = Method("by-name", scorer="uniform", selector="topk").resolved()
    assert isinstance(method.scorer, tokenprune.Scorer)
    assert isinstance(method.selector, tokenprune.Selector)
    assert method.reducer is None


def test_names_are_looked_up_once_and_objects_never(monkeypatch):
    asked = []
    registry = tokenprune.default_registry()
    monkeypatch.setattr("tokenprune.methods.default_lookup", lambda: asked.append("registry") or registry)
    method = Method("by-name", scorer="uniform", selector="topk")
    assert method.needs == frozenset()
    assert [part.name for part in method.parts] == ["uniform", "topk"]
    assert method.select(example_tokens(6), keep=2).indices.tolist() == [1, 4]
    assert asked == ["registry", "registry"]  # scorer and selector, once each
    resolved = method.resolved()
    assert resolved.resolved() is resolved
    for whole in (
        resolved,
        resolved.with_options(scope="tile"),
        dataclasses.replace(resolved, stage="vision"),
    ):
        assert whole.select(example_tokens(6), keep=2).indices.tolist() == [1, 4]
    assert asked == ["registry", "registry"]


def test_scores_of_the_wrong_shape_name_the_scorer():
    class Wide(Ramp):
        def score(self, tokens):
            return tokens.features

    with pytest.raises(PluginError, match=r"scorer 'ramp' .*returned scores of shape \(6, 16\)"):
        dataclasses.replace(RAMP, scorer=Wide()).select(example_tokens(6), keep=2)


def test_too_few_rows_name_the_selector():
    with pytest.raises(PluginError, match="selector 'best' returned 1 rows instead of 2"):
        RAMP.with_options(fewer=1).select(example_tokens(6), keep=2)


def test_too_few_rows_name_the_reducer():
    class Idle(tokenprune.Reducer):
        name = "idle"

        def n_selected(self, keep, n):
            return 1

        def reduce(self, tokens, selection, keep):
            return selection

    with pytest.raises(PluginError, match="reducer 'idle' returned 1 rows instead of 2"):
        dataclasses.replace(RAMP, reducer=Idle()).select(example_tokens(6), keep=2)


def test_a_missing_signal_surfaces_as_such():
    with pytest.raises(IncompatibleError, match="the signal 'pre_features' is required"):
        tokenprune.method("zoo-exact").select(VisualTokens(torch.zeros(6, 4)), keep=2)


@pytest.mark.parametrize("keep", [0, -1])
def test_select_refuses_to_keep_nothing(keep):
    with pytest.raises(tokenprune.BudgetError, match="keep must be at least 1"):
        RAMP.select(example_tokens(6), keep=keep)
