# SPDX-License-Identifier: Apache-2.0
"""The records of a traced call, and how they read as a table."""

import dataclasses

import pytest
import torch

import tokenprune
from tokenprune import BoundaryTrace, CallTrace, PruningHandle, RowTrace

FRONT = BoundaryTrace(
    "projector",
    0,
    (RowTrace(25, 14, (17,), (30,), 6), RowTrace(42, 20, (0,), (19,))),
    "contiguous",
    (2, 20),
    20,
    42,
)
LAYER = BoundaryTrace("decoder", 3, (RowTrace(1, 1, (9, 9, 9), (9, 9, 9)),) * 2, "original", None, 12, 30)
BLOCK = BoundaryTrace("vision", 2, (RowTrace(37, 10, (1,), (32,)),), "original")


def test_rows_that_differ_have_lines_of_their_own_and_equal_ones_share_one():
    assert str(CallTrace(42, (FRONT, LAYER))).splitlines() == [
        "before          row  in  out  positions             mask     stored  masked  seen",
        "language model  0    25   14  contiguous, 17 to 30  (2, 20)      20       6    42",
        "language model  1    42   20  contiguous, 0 to 19   (2, 20)      20       0    42",
        "layer 3         all   1    1  original, (9, 9, 9)   None         12       0    30",
    ]


def test_a_tower_has_no_cache():
    assert str(CallTrace(37, (BLOCK,))).splitlines() == [
        "before   row  in  out  positions          mask  stored  masked  seen",
        "block 2  0    37   10  original, 1 to 32  None       -       -     -",
    ]


def test_a_row_that_ends_here_has_no_positions():
    empty = BoundaryTrace("projector", 0, (RowTrace(0, 0),), "contiguous", (1, 4))
    assert str(CallTrace(4, (empty,))).splitlines()[1].split() == [
        *("language", "model", "0", "0", "0", "-", "(1,", "4)", "-", "-", "-")
    ]


def test_axes_of_positions_are_shown_together():
    row = RowTrace(35, 16, (0, 0, 0), (16, 15, 14))
    boundary = BoundaryTrace("projector", 0, (row,), "original", None, 16, 35)
    assert "original, (0, 0, 0) to (16, 15, 14)" in str(CallTrace(35, (boundary,)))


def test_records_are_compared_by_value_and_cannot_be_changed():
    assert dataclasses.replace(FRONT) == FRONT
    assert hash(CallTrace(42, (FRONT,))) == hash(CallTrace(42, (dataclasses.replace(FRONT),)))
    for record, name in ((FRONT.rows[0], "n_in"), (FRONT, "rows"), (CallTrace(1, ()), "n_new")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, 0)


def test_a_handle_holds_the_last_call_only():
    handle = PruningHandle(torch.nn.Identity(), (), traced=True)
    with pytest.raises(tokenprune.UnsupportedCallError, match="call the pruned model first"):
        handle.trace()
    handle.record_trace(CallTrace(42, (FRONT,)))
    handle.record_trace(CallTrace(1, (LAYER,)))
    assert handle.trace() == CallTrace(1, (LAYER,))
