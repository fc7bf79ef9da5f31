# SPDX-License-Identifier: Apache-2.0
"""torch.export of a pruned model: right where nothing is dropped, else refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tokenprune import Cut, UnsupportedCallError
from tokenprune.image_plan import plan_image


def check_exported(cuts: Sequence[Cut], lengths: Iterable[int], n_layers: int) -> None:
    """Refuse to export a call whose images, of `lengths` tokens each, would be cut.

    Raises
    ------
    UnsupportedCallError
        Which tokens stay is known only once there is a picture; a graph is made without one.
    """
    for n in lengths:
        for cut in cuts:
            plan = plan_image(cut, n, n_layers)
            if plan.left_alone is None:
                rows = min(plan.cuts.values())
                raise UnsupportedCallError(
                    f"torch.export cannot follow {cut.method.name!r}: which {rows} of {n} visual tokens stay "
                    f"depends on the picture. Export with keep={n} or more, which drops none, or remove() "
                    "the pruning first"
                )


def is_exporting() -> bool:
    """Whether torch.export is making a graph."""
    return torch.compiler.is_exporting()
