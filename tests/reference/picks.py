# SPDX-License-Identifier: Apache-2.0
"""Comparing greedy picks. Where the best and the runner-up are too close, rounding may decide."""


def assert_same_picks(got, want, margins, least=1e-6):
    """Require equal picks up to the first that differs where the margin is at most `least`."""
    got, want, margins = (list(map(float, values)) for values in (got, want, margins))
    assert len(got) == len(want) == len(margins)
    for step, (own, official, margin) in enumerate(zip(got, want, margins, strict=True)):
        if own != official:
            assert margin <= least, f"pick {step}: {own} instead of {official}, margin {margin}"
            return
