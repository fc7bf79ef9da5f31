# SPDX-License-Identifier: Apache-2.0
"""Allow torch.export of a pruned model only if nothing is dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tokenprune import Cut, UnsupportedCallError
from tokenprune.image_plan import plan_image


def check_exported(cuts: Sequence[Cut], lengths: Iterable[int], n_layers: int) -> None:
    """Refuse to export a call whose images, of `lengths` tokens each, would be pruned.

    Raises
    ------
    UnsupportedCallError
        If an image would be pruned: the kept tokens depend on the picture, which a graph does not have.
    """
    for n in lengths:
        for cut in cuts:
            plan = plan_image(cut, n, n_layers)
            if plan.left_alone is None:
                if cut.adaptive:
                    raise UnsupportedCallError(
                        f"torch.export cannot trace {cut.method.name!r}: which of {n} visual tokens are "
                        "kept, and how many, depends on the picture. remove() the pruning first"
                    )
                rows = min(plan.cuts.values())
                raise UnsupportedCallError(
                    f"torch.export cannot trace {cut.method.name!r}: which {rows} of {n} visual tokens are "
                    f"kept depends on the picture. Export with keep={n} or more, which drops none, or "
                    "remove() the pruning first"
                )


def is_exporting() -> bool:
    """Whether torch.export is tracing."""
    return torch.compiler.is_exporting()
