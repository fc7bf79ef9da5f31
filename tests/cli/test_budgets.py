# SPDX-License-Identifier: Apache-2.0
"""Budgets on the command line: numbers, ratios and the rule `cover`."""

import pytest
from tokenprune_cli.console.budgets import budget, budget_or_rule, rule_or_count
from tokenprune_evaluation.errors import BadInputError

import tokenprune


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("64", tokenprune.Budget(64)),
        ("cover:0.2", tokenprune.cover(0.2)),
        ("cover:0.2:16", tokenprune.cover(0.2, at_least=16)),
        ("cover:0.2:16:256", tokenprune.cover(0.2, at_least=16, at_most=256)),
    ],
)
def test_budgets_by_hand(keep, expected):
    assert budget_or_rule(keep, None) == expected


def test_a_ratio_is_a_budget():
    assert budget_or_rule(None, "0.5") == budget(None, "0.5") == tokenprune.Budget(keep_ratio=0.5)


@pytest.mark.parametrize(
    ("keep", "ratio", "said"),
    [
        ("cover:0.2:1:2:3", None, "too many numbers; write cover:RADIUS"),
        ("cover:0.2", "0.5", "either --keep or --keep-ratio"),
        ("cover:", None, "radius"),
        ("cover:x", None, "radius"),
        ("cover:0.2:many", None, "at_least"),
        ("cover:3", None, "radius"),
        ("some", None, "keep must be an integer"),
    ],
)
def test_bad_budgets_are_refused(keep, ratio, said):
    with pytest.raises((BadInputError, tokenprune.BudgetError), match=said):
        budget_or_rule(keep, ratio)


def test_counts_and_rules_apart():
    assert rule_or_count("64") == 64
    assert rule_or_count("cover:0.2:16") == tokenprune.Cover(0.2, at_least=16)
    with pytest.raises(tokenprune.BudgetError, match="keep must be an integer"):
        rule_or_count("0.5")
