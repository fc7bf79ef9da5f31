# SPDX-License-Identifier: Apache-2.0
"""Every installed reducer keeps the contract, and the contract check notices each way to break it."""

import pytest
import torch

import tokenprune
from tokenprune import Selection
from tokenprune.testing import check_reducer, example_tokens


def test_every_installed_reducer_keeps_the_contract():
    for name in tokenprune.list_reducers():
        check_reducer(tokenprune.reducer(name))


class MeanOfTheRest(tokenprune.Reducer):
    """One row of the budget (of 2 or more) is new: the mean of what was dropped."""

    name = "mean-of-the-rest"

    def n_selected(self, keep, n):
        return max(1, keep - 1)

    def reduce(self, tokens, selection, keep):
        if keep == len(selection):
            return selection
        dropped = torch.ones(len(tokens), dtype=torch.bool)
        dropped[selection.indices] = False
        new = tokens.features[dropped].mean(0, keepdim=True)
        return Selection(
            torch.cat([selection.indices, torch.tensor([-1])]),
            features=torch.cat([tokens.features[selection.indices], new]),
        )


def test_a_correct_reducer_passes_alone_and_in_a_method():
    check_reducer(MeanOfTheRest())
    tokens = example_tokens()
    method = tokenprune.Method("short", scorer="uniform", selector="topk", reducer=MeanOfTheRest())
    chosen = method.select(tokens, keep=4)
    assert chosen.indices.tolist() == [4, 12, 20, -1]
    dropped = [i for i in range(24) if i not in (4, 12, 20)]
    assert chosen.features[3].allclose(tokens.features[dropped].mean(0))


def test_keeping_everything_leaves_nothing_to_reduce():
    method = tokenprune.Method("short", scorer="uniform", selector="topk", reducer=MeanOfTheRest())
    chosen = method.select(example_tokens(), keep=24)
    assert chosen.indices.tolist() == list(range(24))
    assert chosen.features is None


def broken(**attributes):
    return type("Broken", (MeanOfTheRest,), {"name": "broken", **attributes})()


def too_wide(self, tokens, selection, keep):
    return Selection(torch.arange(keep), features=torch.zeros(keep, 3))


@pytest.mark.parametrize(
    ("reducer", "sentence"),
    [
        (broken(n_selected=lambda self, k, n: k + 1), "leaves 2 of 1 rows to the selector"),
        (broken(n_selected=lambda self, k, n: k - 1), "leaves 0 of 1 rows to the selector"),
        (broken(reduce=lambda self, t, s, k: s), "returned 1 rows instead of 2"),
        (broken(reduce=lambda self, t, s, k: Selection(torch.zeros(k).long())), "returned a slot twice"),
        (broken(reduce=lambda self, t, s, k: Selection(torch.arange(k) + 24)), "outside 0"),
        (broken(reduce=lambda self, t, s, k: Selection(torch.full((k,), -1))), "new rows without features"),
        (broken(reduce=too_wide), r"features \(1, 3\) instead of \(1, 16\)"),
    ],
)
def test_each_broken_promise_is_named(reducer, sentence):
    with pytest.raises(AssertionError, match=f"reducer 'broken'.*{sentence}"):
        check_reducer(reducer)
