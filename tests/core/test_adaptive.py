# SPDX-License-Identifier: Apache-2.0
"""Selectors whose number of rows depends on the picture: `keep` is the most, and no count is known before."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import tokenprune
from tokenprune import (
    Budget,
    Cut,
    ExplicitSchedule,
    GeometricSchedule,
    IncompatibleError,
    Layout,
    Method,
    PluginError,
    Selection,
    VisualTokens,
)
from tokenprune.batch import select_all
from tokenprune.image_plan import ImagePlan, LeftAlone, plan_image
from tokenprune.stack import stack
from tokenprune.testing import check_method, check_selector, example_tokens


@dataclass(frozen=True)
class Positive(tokenprune.Selector):
    """Keeps the tokens whose first feature is positive, or the first one, at most `keep`."""

    name: ClassVar[str] = "positive"
    batched: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True

    def select(self, tokens, scores, keep):
        assert not tokens.is_batch
        slots = (tokens.features[:, 0] > 0).nonzero().squeeze(1)[:keep]
        return Selection.from_order(slots if len(slots) else torch.zeros(1, dtype=torch.long))


POSITIVE = Method("positive", scorer="uniform", selector=Positive())


def image(*signs, layout=None):
    return VisualTokens(torch.tensor(signs, dtype=torch.float32).unsqueeze(1), layout=layout)


def slots(signs, keep, method=POSITIVE, layout=None):
    return method.select(image(*signs, layout=layout), keep).indices.tolist()


def test_at_most_keep_tokens_stay_and_how_many_is_not_known_before():
    assert POSITIVE.adaptive and not Method("fixed").adaptive
    assert POSITIVE.n_keep(Layout((1, 1, 6)), 3) is None
    assert POSITIVE.n_keep(Layout((1, 1, 6)), 6) is None
    assert slots((1, 1, -1, 1, -1, 1), 3) == [0, 1, 3]
    assert slots((-1, 1, -1, -1, -1, -1), 3) == [1]
    assert slots((-1, -1, -1), 2) == [0]


@pytest.mark.parametrize("keep", [4, 5, Budget(None, 1.0)])
def test_a_budget_of_all_tokens_is_no_limit(keep):
    assert slots((1, -1, 1, -1), keep) == [0, 2]


@pytest.mark.parametrize("scope", ["image", "tile"])
@pytest.mark.parametrize(
    ("newlines", "kept"), [("drop", [0, 3]), ("compete", [0, 2, 3, 5]), ("keep", [0, 2, 3, 5])]
)
def test_so_it_is_for_tiled_images(scope, newlines, kept):
    layout = Layout((1, 1, 6), torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 0, 1]).bool(), 2)
    method = Method("tiles", scorer="uniform", selector=Positive(), scope=scope, newlines=newlines)
    assert slots((1, -1, 1, 1, -1, 1), 100, method, layout) == kept


def test_tiles_keep_different_numbers():
    layout = Layout((1, 1, 6), torch.tensor([0, 0, 0, 1, 1, 1]), full_tiles=2)
    method = Method("tiles", scorer="uniform", selector=Positive(), scope="tile")
    assert slots((1, 1, 1, -1, 1, -1), 4, method, layout) == [0, 1, 4]


def test_a_slice_of_a_video_without_rows_gets_one_if_there_are_enough():
    video = Layout((3, 1, 2))
    assert slots((1, 1, 1, -1, -1, -1), 6, layout=video) == [0, 2, 4]
    assert slots((1, 1, -1, -1, -1, -1), 6, layout=video) == [0, 1]


def test_a_reducer_is_refused():
    for reducer in tokenprune.list_reducers():
        method = Method("merged", scorer="uniform", selector=Positive(), reducer=reducer)
        with pytest.raises(
            IncompatibleError, match="'positive' keeps depends on the picture; use no reducer"
        ):
            method.select(example_tokens(), 4)


@dataclass(frozen=True)
class Returning(tokenprune.Selector):
    """Returns the first `rows` slots."""

    name: ClassVar[str] = "returning"
    rows: int = 1
    is_adaptive: bool = True

    @property
    def adaptive(self):
        return self.is_adaptive

    def select(self, tokens, scores, keep):
        return Selection.from_order(torch.arange(self.rows))


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        (Returning(0), "returned 0 rows instead of 1 to 3"),
        (Returning(4), "returned 4 rows instead of 1 to 3"),
        (Returning(2, is_adaptive=False), "returned 2 rows instead of 3"),
    ],
)
def test_other_numbers_are_refused(selector, words):
    with pytest.raises(PluginError, match=words):
        Method("m", scorer="uniform", selector=selector).select(example_tokens(), 3)


def test_images_are_never_stacked():
    images = [image(1, -1, 1), image(-1, 1, -1), image(1, 1, 1)]
    assert not Positive().stacks
    chosen = select_all(POSITIVE, images, [3, 3, 2])
    assert [selection.indices.tolist() for selection in chosen] == [[0, 2], [1], [0, 1]]
    with pytest.raises(IncompatibleError, match="'positive' takes one image at a time"):
        POSITIVE.select(stack(images), 2)
    fixed = Returning(2, is_adaptive=False)
    assert not fixed.stacks  # not batched


def test_the_plan_of_an_image_holds_the_most_rows_also_if_these_are_all():
    inside = GeometricSchedule((2, 4), depth=None)
    decoder = Method("inside", selector=Positive(), stage="decoder", schedule=inside)
    assert plan_image(Cut(POSITIVE, Budget(16)), 64) == ImagePlan({0: 16})
    assert plan_image(Cut(POSITIVE, Budget(64)), 64) == ImagePlan({0: 64})
    assert plan_image(Cut(POSITIVE, Budget(99)), 64) == ImagePlan({0: 64})
    assert plan_image(Cut(decoder, Budget(16)), 64, 8) == ImagePlan({2: 32, 4: 16})
    assert plan_image(Cut(decoder, Budget(64)), 64, 8) == ImagePlan({2: 64, 4: 64})
    explicit = decoder.with_options(schedule=ExplicitSchedule((2,), (99,)))
    assert plan_image(Cut(explicit, Budget(1)), 64, 8) == ImagePlan({2: 64})
    assert plan_image(Cut(POSITIVE, Budget(64), min_tokens=65), 64).left_alone is LeftAlone.TOO_FEW_TOKENS
    assert plan_image(Cut(POSITIVE, Budget(64)), 64, hidden=True).left_alone is LeftAlone.HIDDEN


def test_the_contract_checks_accept_fewer_rows():
    check_selector(Positive())
    check_selector(Returning(1))
    check_method(POSITIVE)


@pytest.mark.parametrize(
    ("selector", "sentence"),
    [
        (Returning(0), "returned 0 rows instead of 1 to 1"),
        (Returning(2), "returned 2 rows instead of 1 to 1"),
        (Returning(1, is_adaptive="yes"), "must say True or False for `adaptive`, not 'yes'"),
    ],
)
def test_and_name_what_is_broken(selector, sentence):
    with pytest.raises(AssertionError, match=f"selector 'returning' {sentence}"):
        check_selector(selector)
