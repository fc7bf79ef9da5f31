# SPDX-License-Identifier: Apache-2.0
"""What passed on the vision side while the images of a call were encoded."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Seen:
    """What passed during one encoding: projector inputs, class rows of tower outputs, queries and keys."""

    projector_inputs: list[Tensor] = field(default_factory=list)
    tower_outputs: list[Tensor] = field(default_factory=list)
    attention: list[tuple[Tensor, Tensor, float | None]] = field(default_factory=list)


@dataclass
class Encoded:
    """The images of one encoding call: length of each, what passed, the arguments, rows and output.

    `arguments` are those the adapter reads (`encoder_words`), None where one was not passed. `newlines` marks
    separator tokens of each image (N,), where the adapter tells them by their rows.
    """

    lengths: list[int]
    seen: Seen
    arguments: dict[str, Any]
    rows: Any = field(repr=False)
    output: weakref.ref[Any] = field(repr=False)
    newlines: list[Tensor] = field(default_factory=list)


ImageSignal = Callable[[Encoded, int], Any]  # of what was encoded and the number of an image in it
