# SPDX-License-Identifier: Apache-2.0
"""What a strategy answers is looked at, and whose code failed is said."""

import pytest
import torch

import tokenprune
from tokenprune import PluginError, Selection, VisualTokens


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
    words = r"selector 'answer' \(.*\) returned slots that are not among 0 to 5, ascending, each once: \["
    with pytest.raises(PluginError, match=words):
        choose(selector=Answer(Selection(torch.tensor(slots))))


def test_new_rows_may_stand_anywhere_but_slots_stay_within_the_image():
    rows = torch.zeros(3, 6)
    assert choose(selector=Answer(Selection(torch.tensor([-1, 2, -1]), features=rows))).indices[1] == 2
    with pytest.raises(PluginError, match="not among 0 to 5"):
        choose(selector=Answer(Selection(torch.tensor([-1, 6, -1]), features=rows)))


def test_what_is_no_selection_and_no_scores_is_named():
    with pytest.raises(PluginError, match="returned Tensor instead of a Selection"):
        choose(selector=Answer(torch.arange(3)))
    with pytest.raises(PluginError, match="returned list instead of a tensor of scores"):
        choose(scorer=Scores([1.0] * 6))
    with pytest.raises(PluginError, match=r"returned scores of shape \(5,\) for \(6,\) tokens"):
        choose(scorer=Scores(torch.ones(5)))
    with pytest.raises(PluginError, match=r"returned scores that are no numbers \(NaN\)"):
        choose(scorer=Scores(torch.tensor([1.0, 2, 3, 4, 5, torch.nan])))
    assert choose(scorer=Scores(torch.tensor([1.0, 2, 3, 4, 5, -torch.inf]))).indices.tolist() == [2, 3, 4]


def test_a_strangers_failure_has_his_name_and_ours_and_a_full_memory_pass():
    with pytest.raises(PluginError, match=r"selector 'answer' \(.*\) failed: KeyError: 'x'") as caught:
        choose(selector=Answer(KeyError("x")))
    assert isinstance(caught.value.__cause__, KeyError)
    for error in (tokenprune.BudgetError("no"), torch.OutOfMemoryError("full")):
        with pytest.raises(type(error)):
            choose(selector=Answer(error))
