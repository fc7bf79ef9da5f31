# SPDX-License-Identifier: Apache-2.0
"""The lifetime of caches filled by a pruned model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Lease:
    """Whether the pruning that filled a cache is still active."""

    active: bool = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Lease:
        """Share the lease with copies of a cache."""
        return self
