# SPDX-License-Identifier: Apache-2.0
"""packing.py by hand: which sample a token is of, and counts that begin anew."""

import torch
from tokenprune_adapters.transformers.packing import counted_anew, numbering, restarts, sequence_numbers

PACKED = torch.tensor([[0, 1, 2, 0, 1, 0]])


def test_samples_are_numbered_where_positions_do_not_follow():
    assert sequence_numbers(PACKED, 1).tolist() == [[0, 0, 0, 1, 1, 2]]
    assert sequence_numbers(torch.tensor([[5, 6, 8, 9]]), 1).tolist() == [[0, 0, 1, 1]]  # as stock: a gap too


def test_one_row_of_positions_serves_all_rows():
    assert sequence_numbers(PACKED, 2).tolist() == [[0, 0, 0, 1, 1, 2]] * 2
    two = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]])
    assert sequence_numbers(two, 2).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]


def test_rows_that_are_one_sequence():
    for positions in (None, torch.arange(4)[None], torch.tensor([[7]]), torch.arange(4).repeat(2, 1)):
        assert sequence_numbers(positions, 2) is None


def test_the_first_of_four_rows_of_positions_is_read():
    axes = torch.zeros(3, 1, 6, dtype=torch.long)
    assert sequence_numbers(torch.cat([PACKED[None], axes]), 1).tolist() == [[0, 0, 0, 1, 1, 2]]
    assert sequence_numbers(axes, 1) is None


def test_rows_that_stay_are_numbered_anew_in_each_sample():
    numbers = torch.tensor([[0, 0, 1, 1, 1], [-1, -1, 0, 0, 2]])
    assert numbering(numbers).tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 0]]


def test_where_positions_fall_back():
    assert restarts(PACKED, None).tolist() == [[False, False, False, True, False, True]]
    assert restarts(None, None) is None
    padded, real = torch.tensor([[1, 1, 0, 1, 2]]), torch.tensor([[False, False, True, True, True]])
    assert restarts(padded, real).tolist() == [[False, False, True, False, False]]
    assert (
        restarts(torch.tensor([[0, 1, 2, 1, 1]]), torch.tensor([[True] * 3 + [False] * 2])).any().item()
        is False
    )


def test_counts_begin_anew():
    counts = torch.tensor([[0, 1, 2, 2, 3, 3]])
    begins = restarts(PACKED, None)
    assert counted_anew(counts, begins).tolist() == [[0, 1, 2, 0, 1, 0]]
    assert counted_anew(counts, None) is counts
    assert counted_anew(counts, torch.zeros(1, 6, dtype=torch.bool)).tolist() == counts.tolist()
