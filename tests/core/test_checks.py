# SPDX-License-Identifier: Apache-2.0
"""What a strategy answers is looked at, and whose code failed is said."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import tokenprune
from tokenprune import (
    BudgetError,
    InputError,
    PluginError,
    Selection,
    VisualTokens,
    checks,
    finite,
    select_input,
)
from tokenprune.batch import select_all
from tokenprune.stack import stack
from tokenprune.testing import example_tokens

METHODS, SELECTORS = tokenprune.list_methods(), tokenprune.list_selectors()
NOT_FINITE = (math.nan, math.inf, -math.inf)


class Answer(tokenprune.Selector):
    """Returns what it was given."""

    name = "answer"

    def __init__(self, given):
        self.given = given

    def select(self, tokens, scores, keep):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


class Scores(tokenprune.Scorer):
    """The same."""

    name = "scores"

    def __init__(self, given):
        self.given = given

    def score(self, tokens):
        return self.given


def choose(keep=3, scorer="uniform", selector="topk"):
    method = tokenprune.Method("m", scorer=scorer, selector=selector)
    return method.select(VisualTokens(torch.eye(6)), keep)


@pytest.mark.parametrize("slots", [[0, 0, 0], [2, 1, 3], [-1, 1, 2], [3, 4, 6]])
def test_slots_ascend_within_the_image_each_once(slots):
    words = r"selector 'answer' \(.*\) returned slots that are not unique, ascending and between 0 and 5: \["
    with pytest.raises(PluginError, match=words):
        choose(selector=Answer(Selection(torch.tensor(slots))))


@pytest.mark.parametrize(
    "into",
    [[0, 1, 0, 3, 4, 4], [1, 0, 0, 3, 3, 3], [0, 1, 2, 3, 3, 3], [0, 0, 0, 3, 3, 3], [0, 1, 0, 3, -2, 6]],
)
def test_tokens_are_merged_into_kept_ones_alone(into):
    kept = torch.tensor([0, 1, 3])
    words = r"selector 'answer' \(.*\) returned a merged_into that is wrong: kept tokens must have their own"
    with pytest.raises(PluginError, match=words):
        choose(selector=Answer(Selection(kept, merged_into=torch.tensor(into))))
    right = torch.tensor([0, 1, 0, 3, -1, 3])
    assert choose(selector=Answer(Selection(kept, merged_into=right))).merged_into is right


@pytest.mark.parametrize("into", [torch.tensor([0, 1, 3]), torch.tensor([0.0, 1, 0, 3, 3, 3])])
def test_what_is_merged_is_a_slot_for_each_token(into):
    words = r"returned merged_into of shape .* for \(6,\) tokens; it must be a torch.long slot for each token"
    with pytest.raises(PluginError, match=words):
        choose(selector=Answer(Selection(torch.tensor([0, 1, 3]), merged_into=into)))


def test_new_rows_may_stand_anywhere_but_slots_stay_within_the_image():
    rows = torch.zeros(3, 6)
    assert choose(selector=Answer(Selection(torch.tensor([-1, 2, -1]), features=rows))).indices[1] == 2
    with pytest.raises(PluginError, match="ascending and between 0 and 5"):
        choose(selector=Answer(Selection(torch.tensor([-1, 6, -1]), features=rows)))


def test_what_is_no_selection_and_no_scores_is_named():
    with pytest.raises(PluginError, match="returned Tensor instead of a Selection"):
        choose(selector=Answer(torch.arange(3)))
    with pytest.raises(PluginError, match="returned list instead of a tensor of scores"):
        choose(scorer=Scores([1.0] * 6))
    with pytest.raises(PluginError, match=r"returned scores of shape \(5,\) for \(6,\) tokens"):
        choose(scorer=Scores(torch.ones(5)))


def test_a_strangers_failure_has_his_name_and_ours_and_a_full_memory_pass():
    with pytest.raises(PluginError, match=r"selector 'answer' \(.*\) failed: KeyError: 'x'") as caught:
        choose(selector=Answer(KeyError("x")))
    assert isinstance(caught.value.__cause__, KeyError)
    for error in (tokenprune.BudgetError("no"), torch.OutOfMemoryError("full")):
        with pytest.raises(type(error)):
            choose(selector=Answer(error))


@dataclass(frozen=True)
class OneBad(tokenprune.Scorer):
    """Scores one token of each image `value`."""

    name: ClassVar[str] = "one-bad"
    value: float = math.nan
    batched: ClassVar[bool] = True

    def score(self, tokens):
        scores = torch.arange(float(len(tokens))).expand(tokens.features.shape[:-1]).clone()
        scores[..., 5] = self.value
        return scores


def before_layer_2(method, tokens, keep=6):
    return method.select(tokens, keep, layer=2)


def batched(method, tokens, keep=6):
    return select_all(method, [tokens] * 2, [keep] * 2, layer=2)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", SELECTORS)
def test_scores_that_are_not_finite_are_their_scorers_fault_whoever_selects(name, value):
    method = tokenprune.Method("m", scorer=OneBad(value), selector=name)
    for run in (before_layer_2, batched):
        with pytest.raises(
            PluginError, match=r"scorer 'one-bad' \(.*\) returned \d+ scores of which"
        ) as caught:
            run(method, example_tokens())
        assert f"selector '{name}'" not in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_so_they_are_in_every_method_and_among_tiles(name):
    method = dataclasses.replace(tokenprune.method(name), scorer=OneBad(-math.inf))
    tiles = tokenprune.Layout((1, 1, 24), tiles=torch.arange(24) // 12, full_tiles=2)
    image = example_tokens()
    signals = {signal: image.signal(signal) for signal in image.provides - {"cls_hidden"}}
    signals["cls_hidden"] = image.signal("cls_hidden").expand(2, -1)
    tiled = tokenprune.VisualTokens(image.features, signals, tiles)
    for tokens in (image, tiled):
        with pytest.raises(PluginError, match="scorer 'one-bad' .* of which 1 is NaN or infinite"):
            before_layer_2(method, tokens)


def test_a_signal_that_is_not_finite_is_named_beside_its_reader():
    image = example_tokens()
    signals = {name: image.signal(name) for name in image.provides}
    signals["cls_attention"] = signals["cls_attention"] / 0
    with pytest.raises(PluginError, match="scorer 'attention' .* It reads cls_attention, which holds NaN or"):
        tokenprune.method("visionzip").select(tokenprune.VisualTokens(image.features, signals), 6)


def with_bad_row(value, row=5, seed=0):
    image = example_tokens(seed=seed)
    features = image.features.clone()
    features[row, 3] = value
    signals = {name: image.signal(name) for name in image.provides}
    return tokenprune.VisualTokens(features, signals, image.layout, image.layer)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", METHODS)
def test_rows_that_are_not_finite_are_named_by_every_method(name, value):
    method = tokenprune.method(name)
    words = r"the rows of the image.* must be finite .* 1 of 24 hold NaN or infinity \(the first is row 5\)"
    with pytest.raises(InputError, match=words):
        before_layer_2(method, with_bad_row(value))
    images = [example_tokens(seed=1), with_bad_row(value), example_tokens(seed=2)]
    with pytest.raises(InputError, match=r"image 1 \(of 3 that are pruned\) before decoder layer 2 must"):
        select_all(method, images, [6] * 3, layer=2)
    assert len(select_all(method, images[::2], [6] * 2, layer=2)) == 2


def test_an_image_of_a_stack_is_named_by_its_number():
    whole = stack([example_tokens(seed=1), with_bad_row(math.nan)])
    with pytest.raises(InputError, match="image 1 of the stack"):
        tokenprune.method("divprune").select(whole, 6)


def test_rows_are_named_though_a_strategy_failed_on_them():
    with pytest.raises(InputError, match="1 of 24 hold NaN") as caught:
        tokenprune.Method("m", selector=Answer(IndexError("slot"))).select(with_bad_row(math.nan), 3)
    assert isinstance(caught.value.__context__, IndexError)


def test_rows_too_large_to_be_added_up_are_finite_all_the_same():
    tokens = tokenprune.VisualTokens(torch.eye(24) * 3e38)
    for name in ("divprune", "random"):
        assert len(tokenprune.method(name).select(tokens, 6)) == 6


def test_made_rows_that_are_not_finite_are_their_reducers_fault():
    class Overflows(tokenprune.Reducer):
        name = "overflows"

        def n_selected(self, keep, n):
            return keep

        def reduce(self, tokens, selection, keep):
            return Selection(selection.indices, features=tokens.features[selection.indices] * torch.inf)

    with pytest.raises(PluginError, match="reducer 'overflows' .* returned rows that hold NaN or infinity"):
        tokenprune.Method("m", reducer=Overflows()).select(example_tokens(), 4)


def test_rows_and_scores_are_read_with_one_wait(monkeypatch):
    waits = []
    real = finite.read
    for module in (checks, select_input):
        monkeypatch.setattr(module, "read", lambda *flags: waits.append(len(flags)) or real(*flags))
    tokenprune.Method("m", scorer="random", selector="diverse").select(example_tokens(), 6)
    assert waits == [2, 1]  # rows and scores, then the slots
    waits.clear()
    tokenprune.method("divprune").select(example_tokens(), 6)
    assert waits == [2]  # no scores: the slots and the rows


class Strangers(tokenprune.Selector):
    """Somebody else's, which looks at nothing it is handed; its own words for the arguments."""

    name = "strangers"

    def select(self, image, weights, many):
        return Selection(torch.arange(max(0, int(many))))


def selectors():
    return [*map(tokenprune.selector, SELECTORS), Strangers(), type("Heir", (Strangers,), {})()]


@pytest.mark.parametrize("selector", selectors(), ids=lambda one: type(one).__name__)
def test_a_bare_selector_refuses_what_a_method_would(selector):
    tokens, scores = example_tokens(), torch.arange(24.0)
    for keep in (25, 0, -1):
        words = (
            f"selector '{selector.name}': keep must be between 1 and 24, the number of tokens, got {keep} "
        )
        with pytest.raises(BudgetError, match=words):
            selector.select(tokens, scores, keep)
    for keep in (2.0, True, None, "4"):
        with pytest.raises(BudgetError, match="keep must be an integer, the number of tokens"):
            selector.select(tokens, scores, keep)
    for wrong in (scores[:23], scores[None], torch.tensor(1.0)):
        with pytest.raises(InputError, match=rf"'{selector.name}' got scores of shape .* for \(24,\)"):
            selector.select(tokens, wrong, 4)
    with pytest.raises(InputError, match="got scores of type list; pass a tensor or None"):
        selector.select(tokens, [1.0] * 24, 4)
    with pytest.raises(InputError, match="got 24 scores of which 2 are NaN or infinite"):
        selector.select(tokens, torch.tensor([math.inf, math.nan, *range(22)]), 4)
    with pytest.raises(InputError, match="the rows of the image before decoder layer 2 must be finite"):
        selector.select(with_bad_row(math.nan), scores, 4)
    assert (1 if selector.adaptive else 24) <= len(selector.select(tokens, scores, keep=24)) <= 24


def test_a_bare_selector_given_a_stack_wants_scores_of_the_stack():
    whole, selector = stack([example_tokens(seed=seed) for seed in (1, 2)]), tokenprune.selector("diverse")
    assert selector.select(whole, torch.rand(2, 24), 4).indices.shape == (2, 4)
    with pytest.raises(InputError, match=r"scores of shape \(24,\) for \(2, 24\) tokens"):
        selector.select(whole, torch.rand(24), 4)


def test_an_abstract_selector_stays_abstract():
    class Unfinished(tokenprune.Selector):
        name = "unfinished"

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()
