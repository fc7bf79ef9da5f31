# SPDX-License-Identifier: Apache-2.0
"""How long what a pruned model left behind is good for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Lease:
    """Whether the pruning that filled a cache is still in force."""

    active: bool = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Lease:
        """A copied cache ends with the same pruning."""
        return self
