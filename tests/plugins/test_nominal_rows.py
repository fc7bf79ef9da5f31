# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenprune_plugins.nominal_rows import check_number_of_layers, rows_between

import tokenprune

LISTS = ((10, (40, 5)), (30, (60, 25)))  # of 100


def test_published_budgets_give_the_published_rows():
    assert [rows_between(LISTS, nominal, 100) for nominal in (10, 30)] == [(40, 5), (60, 25)]


def test_between_below_and_above_the_lists_by_hand():
    assert rows_between(LISTS, 15, 100) == (45, 10)
    assert rows_between(LISTS, 2, 100) == (8, 1)
    assert rows_between(LISTS, 65, 100) == (80, 62.5)
    assert rows_between(LISTS, 100, 100) == (100, 100)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_more_of_the_budget_never_leaves_fewer_rows(a, b):
    fewer, more = (rows_between(LISTS, nominal, 100) for nominal in sorted((a, b)))
    assert all(x <= y + 1e-9 for x, y in zip(fewer, more, strict=True))


def test_two_lists_of_one_budget_give_the_first():
    """As the shares of few tokens do, once rounded."""
    assert rows_between(((1, (3, 2)), (1, (4, 3)), (2, (5, 4))), 1, 10) == (3, 2)


@pytest.mark.parametrize("layers", [(), (7,), (1, 2, 3)])
def test_there_is_one_layer_for_each_cut(layers):
    check_number_of_layers("A method", (3, 7), LISTS, [3, 7])
    with pytest.raises(tokenprune.OptionError, match=r"A method's .* 2 cuts, .*such as layer=\[3, 7\]"):
        check_number_of_layers("A method", layers, LISTS, [3, 7])
