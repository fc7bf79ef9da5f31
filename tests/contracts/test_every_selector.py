# SPDX-License-Identifier: Apache-2.0
"""Every installed selector keeps the contract, and the contract check notices each way to break it."""

import pytest
import torch

import tokenprune
from tokenprune import Selection
from tokenprune.testing import check_selector, example_tokens


@pytest.mark.parametrize("name", tokenprune.list_selectors())
def test_selector_keeps_the_contract(name):
    check_selector(tokenprune.selector(name))


@pytest.mark.parametrize("name", tokenprune.list_selectors())
@pytest.mark.parametrize("n", [1, 2, 7])
def test_selector_takes_images_of_any_size(name, n):
    check_selector(tokenprune.selector(name), example_tokens(n))


@pytest.mark.parametrize("name", tokenprune.list_selectors())
def test_selector_takes_bfloat16_tokens(name):
    selector, tokens = tokenprune.selector(name), example_tokens()
    signals = {need: tokens.signal(need) for need in selector.needs}
    signals = {k: v.bfloat16() if isinstance(v, torch.Tensor) else v for k, v in signals.items()}
    half = tokenprune.VisualTokens(tokens.features.bfloat16(), signals, tokens.layout, tokens.layer)
    assert len(selector.select(half, torch.arange(24.0), 5)) == 5


@pytest.mark.parametrize("name", tokenprune.list_selectors())
def test_selector_takes_tokens_that_require_gradients(name):
    tokens = example_tokens()
    signals = {need: tokens.signal(need) for need in tokenprune.selector(name).needs}
    chosen = []
    for features in (tokens.features, tokens.features.clone().requires_grad_()):
        image = tokenprune.VisualTokens(features, signals, tokens.layout, tokens.layer)
        chosen.append(tokenprune.selector(name).select(image, features.norm(dim=-1), 5).indices)
    assert torch.equal(*chosen)


class First(tokenprune.Selector):
    name = "first"

    def select(self, tokens, scores, keep):
        return Selection.from_order(torch.arange(keep).expand(*tokens.features.shape[:-2], keep))


def test_a_correct_selector_passes():
    check_selector(First())


def broken(select, **attributes):
    return type("Broken", (First,), {"name": "broken", "select": select, **attributes})()


def spoil_scores(self, tokens, scores, keep):
    if scores is not None:
        scores.zero_()
    return Selection(torch.arange(keep))


def alternate(self, tokens, scores, keep, calls=[]):  # noqa: B006 (state is the point)
    calls.append(0)
    return Selection(torch.arange(keep) + (len(calls) % 2) * (len(tokens) - keep))


@pytest.mark.parametrize(
    ("selector", "sentence"),
    [
        (broken(lambda self, t, s, k: Selection(torch.arange(k + 1))), "returned 2 rows instead of 1"),
        (broken(lambda self, t, s, k: Selection(torch.arange(k).float())), "of dtype torch.long"),
        (broken(lambda self, t, s, k: Selection(torch.arange(k) + len(t))), r"outside 0 \.\.\. 23"),
        (broken(lambda self, t, s, k: Selection(torch.arange(k) - 1)), r"outside 0 \.\.\. 23"),
        (broken(lambda self, t, s, k: Selection(torch.arange(k).flip(0))), "unique slots in ascending order"),
        (broken(lambda self, t, s, k: Selection(torch.zeros(k).long())), "unique slots in ascending order"),
        (
            broken(lambda self, t, s, k: Selection(torch.arange(k), order=torch.arange(k) + 1)),
            "not a permutation of its indices",
        ),
        (broken(alternate), "is not deterministic"),
        (broken(spoil_scores), "changed the scores in place"),
        (broken(lambda self, t, s, k: Selection(torch.arange(len(t) - k, len(t)))), "ties to the lowest"),
        (broken(lambda self, t, s, k: Selection(torch.randperm(len(t))[:k].sort().values)), "global random"),
        (
            broken(lambda self, t, s, k: Selection(torch.arange(k)), batched=True),
            "says `batched`",
        ),
    ],
)
def test_each_broken_promise_is_named(selector, sentence):
    with pytest.raises(AssertionError, match=f"selector 'broken'.*{sentence}"):
        check_selector(selector)


def test_a_selector_by_position_may_leave_the_lowest_slots():
    last = broken(lambda self, t, s, k: Selection(torch.arange(len(t) - k, len(t))), by_position=True)
    check_selector(last)
