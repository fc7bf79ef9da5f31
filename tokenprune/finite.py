# SPDX-License-Identifier: Apache-2.0
"""Whether the rows that strategies work on are numbers, asked where the device is waited for anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError
from .tokens import VisualTokens


def are_finite(rows: Tensor) -> Tensor:
    """Return a tensor () that is False where some of `rows` are not finite; nothing is waited for.

    One sum over everything: False may also mean that finite rows are too large to be added up.
    """
    return rows.detach().sum(dtype=torch.float32).isfinite()


def read(*flags: Tensor) -> list[bool]:
    """Return the values of tensors (), waiting for their device once."""
    found: list[bool] = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return found


def refuse_not_finite(tokens: VisualTokens, image: str = "the image") -> None:
    """Refuse tokens some of whose rows are not finite; waits for the device.

    Raises
    ------
    InputError
        Naming the image and how many of its rows.
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
