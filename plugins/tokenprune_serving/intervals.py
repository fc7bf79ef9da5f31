# SPDX-License-Identifier: Apache-2.0
"""The interval of a median, from the ordered values themselves.

Below the median lie as many of n independent values as coins show heads, whatever their distribution. The
k-th smallest and the k-th largest value therefore enclose it unless fewer than k coins show heads, or fewer
than k tails (David and Nagaraja, Order Statistics, 2003, section 7.1). With six values, the smallest and the
largest enclose it with a probability of 97 %; with fewer, no two values reach 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval that contains the median with a confidence of at least 95 %; None: too few values.

    Parameters
    ----------
    values
        Independent values of one distribution, in any order.
    """
    ordered, n = sorted(values), len(values)
    tail, k = 0.0, 0  # P(Bin(n, 1/2) < k)
    while (more := tail + math.comb(n, k) / 2**n) <= (1 - LEVEL) / 2:
        tail, k = more, k + 1
    return (ordered[k - 1], ordered[n - k]) if k else None
