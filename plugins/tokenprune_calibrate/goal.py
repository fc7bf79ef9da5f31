# SPDX-License-Identifier: Apache-2.0
"""What is to be certified: the probability that the risk exceeds the limit is at most 1 - confidence."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any

from tokenprune_evaluation.errors import BadInputError

from .losses import LOSSES

PICTURE, QUESTION = "picture", "question"
UNITS = (PICTURE, QUESTION)


@dataclass(frozen=True)
class Goal:
    """A loss, the limit of its mean, and the confidence; decided before data are seen.

    Parameters
    ----------
    loss
        `"disagreement"`, `"drop"` or `"divergence"`.
    limit
        The highest risk, the expected loss of a unit, in (0, 1).
    confidence
        The probability, over the draw of the sample, that the certified risk is at most the limit.
    unit
        `"picture"`: the mean loss of a picture's questions. `"question"`: one question of each picture, drawn
        with `seed`. Questions about one picture are not independent, so no unit is smaller.
    stop_early
        Stop as soon as the answer cannot change; the bounds are then valid at any time, and wider.
    seed
        Of the order in which units are tested, and of the questions drawn.

    Raises
    ------
    BadInputError
        If one of them is invalid.
    """

    loss: str
    limit: float
    confidence: float = 0.95
    unit: str = PICTURE
    stop_early: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_name("loss", self.loss, LOSSES)
        _check_name("unit", self.unit, UNITS)
        _check_share(f"the limit of the {self.loss}", self.limit)
        _check_share("the confidence", self.confidence)

    @property
    def delta(self) -> float:
        """The probability with which the certificate may be wrong."""
        return 1 - self.confidence


def _check_name(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise BadInputError(f"unknown {what} {name!r}; known: {', '.join(names)}")


def _check_share(what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < 1:
        raise BadInputError(f"{what} must be a number above 0 and below 1, got {value!r}")
