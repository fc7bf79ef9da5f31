# SPDX-License-Identifier: Apache-2.0
"""What a check of a model says of its records: the worst one, one sentence, JSON without infinities."""

import json
import math

import pytest

from tokenprune.testing import ModelCheck
from tokenprune.trial import EXACTNESS, IDENTITY, UNDO, PromiseRecord


def check_of(*records):
    return ModelCheck("Model", "adapter", "cpu", "float32", {}, "keep=5", records, 0.0)


def test_what_passed_is_counted_by_method():
    check = check_of(
        PromiseRecord.of(EXACTNESS, "a", 1e-5, 1e-3),
        PromiseRecord.of(IDENTITY, "a", 0.0, 0.0),
        PromiseRecord.of(IDENTITY, "b", 0.0, 0.0),
    )
    assert check.passed and check.failures == ()
    assert str(check) == "Model: every promise was kept by 2 method(s)"


def test_what_was_broken_is_told_with_its_figures_and_its_note():
    check = check_of(
        PromiseRecord.of(EXACTNESS, "a", 0.25, 1e-3),
        PromiseRecord.failed(UNDO, "b", "the Model itself has other attributes than before (left)"),
        PromiseRecord.of(IDENTITY, "b", 0.5, 0.0, "the answers differ from run to run"),
        PromiseRecord.of(IDENTITY, "a", 0.0, 0.0),
    )
    assert not check.passed and len(check.failures) == 3
    assert str(check) == (
        "Model: 3 promise(s) broken: exactness with a (off by 2.5e-01, 1.0e-03 is allowed); "
        "undo with b: the Model itself has other attributes than before (left); "
        "identity with b (off by 5.0e-01, 0.0e+00 is allowed): the answers differ from run to run"
    )


def test_a_check_of_which_nothing_was_applicable_has_not_passed_and_gives_the_first_reason():
    check = check_of(
        PromiseRecord.skipped("all", "a", "needs the signal x"), PromiseRecord.skipped("all", "b", "no")
    )
    assert not check.passed and check.failures == ()
    assert str(check) == "Model: nothing could be checked: all with a: needs the signal x"


def exactness(difference, allowed=1e-3, method="m"):
    return PromiseRecord.of(EXACTNESS, method, difference, allowed)


@pytest.mark.parametrize(
    ("records", "worst"),
    [
        ([exactness(1e-4), exactness(5e-3, 1e-2)], 1),  # nearer to what is allowed
        ([exactness(1e-4), exactness(2e-3), exactness(0.9e-3)], 1),  # broken
        ([exactness(0.0, 0.0), exactness(1e-9, 0.0)], 1),  # where nothing is allowed
        ([exactness(1e9), exactness(math.nan)], 1),
        ([exactness(1e-4), PromiseRecord.failed(EXACTNESS, "m", "raised")], 1),  # without a figure
        ([PromiseRecord.failed(EXACTNESS, "m", "raised"), exactness(1e9)], 0),
        ([exactness(1e-4), PromiseRecord.skipped(EXACTNESS, "m", "none")], 0),
    ],
)
def test_the_worst_record_of_a_promise(records, worst):
    other = PromiseRecord.of(IDENTITY, "m", 1e12, 0.0)
    assert check_of(other, *records).worst(EXACTNESS) is records[worst]


def test_a_promise_that_was_not_checked_has_no_worst_record():
    assert check_of(PromiseRecord.skipped(EXACTNESS, "m", "none")).worst(EXACTNESS) is None
    assert check_of(exactness(0.0)).worst(UNDO) is None


def test_nan_is_never_allowed():
    assert exactness(math.nan, math.inf).outcome == "failed"


def test_differences_that_are_no_numbers_are_words_in_json():
    noted = PromiseRecord.of(EXACTNESS, "b", math.nan, 1e-3, "rows are NaN")
    records = json.loads(check_of(exactness(math.inf), noted, exactness(0.5)).to_json())["records"]
    assert [(r["difference"], r["note"]) for r in records] == [
        (None, "the difference is inf"),
        (None, "rows are NaN"),
        (0.5, ""),
    ]
