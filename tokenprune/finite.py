# SPDX-License-Identifier: Apache-2.0
"""Check that rows and scores are finite, with as few device synchronizations as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .tokens import VisualTokens


def are_finite(rows: Tensor) -> Tensor:
    """Return a scalar tensor, False if some of `rows` are not finite; does not synchronize.

    Computed as one float32 sum: False may also mean that the sum of finite rows overflows.
    """
    return rows.detach().sum(dtype=torch.float32).isfinite()


def read(*flags: Tensor) -> list[bool]:
    """Return the values of scalar tensors, with one device synchronization."""
    values: list[bool] = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return values


def refuse_not_finite(tokens: VisualTokens, image: str = "the image") -> None:
    """Raise if rows of the tokens are not finite; synchronizes with the device.

    Raises
    ------
    InputError
        Naming the image and the number of such rows.
    """
    bad = ~tokens.features.detach().isfinite().all(-1)  # (N,) or (B, N)
    for number, rows in enumerate(bad if tokens.is_batch else bad[None]):
        if bool(rows.any()):
            which = f"image {number} of the stack" if tokens.is_batch else image
            where = "" if tokens.layer is None else f" before decoder layer {tokens.layer}"
            first = int(rows.nonzero()[0])
            raise InputError(
                f"the rows of {which}{where} must be finite to choose among them, but {int(rows.sum())} of "
                f"{len(rows)} hold NaN or infinity (the first is row {first}). They come from the model: "
                "check the pixel values, and its precision (float16 overflows where bfloat16 does not)"
            )
