# SPDX-License-Identifier: Apache-2.0
"""Every installed method keeps the contract, states its paper, and does what its parts do together."""

import pytest
import torch

import tokenprune
from tokenprune.testing import check_method, example_tokens

METHODS = tokenprune.list_methods()


@pytest.mark.parametrize("name", METHODS)
def test_method_keeps_the_contract(name):
    check_method(tokenprune.method(name))


@pytest.mark.parametrize("name", METHODS)
def test_method_states_where_it_comes_from(name):
    method = tokenprune.method(name)
    assert method.title
    assert method.paper


@pytest.mark.parametrize("name", METHODS)
def test_method_needs_what_its_parts_need(name):
    method = tokenprune.method(name)
    assert method.needs == frozenset().union(*(part.needs for part in method.parts))


@pytest.mark.parametrize("name", METHODS)
def test_method_chooses_the_same_whatever_the_global_random_state(name):
    method, chosen = tokenprune.method(name), []
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            chosen.append(method.select(example_tokens(), keep=7).indices)
    assert torch.equal(*chosen)


class Careless(tokenprune.Selector):
    """Keeps the last tokens, and not in order when all are asked for."""

    name = "careless"

    def select(self, tokens, scores, keep):
        slots = torch.arange(len(tokens) - keep, len(tokens))
        rows = tokens.features * 2 if keep == len(tokens) else None
        return tokenprune.Selection(slots, features=rows)


def test_a_method_that_changes_the_image_when_everything_stays_is_named():
    with pytest.raises(AssertionError, match="method 'careless' must keep all 24 tokens as they are"):
        check_method(tokenprune.Method("careless", scorer="uniform", selector=Careless()))


class Restless(tokenprune.Selector):
    """Chooses otherwise at each call."""

    name = "restless"
    calls = 0

    def select(self, tokens, scores, keep):
        type(self).calls += 1
        return tokenprune.Selection(torch.arange(keep) + self.calls % 2)


def test_a_method_that_chooses_otherwise_the_second_time_is_named():
    with pytest.raises(AssertionError, match="method 'restless' is not deterministic"):
        check_method(tokenprune.Method("restless", scorer="uniform", selector=Restless()))
