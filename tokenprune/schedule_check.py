# SPDX-License-Identifier: Apache-2.0
"""Whether a schedule's rows go with its layers, asked before a forward pass asks for them."""

from __future__ import annotations

import numbers

from .errors import OptionError, PluginError, TokenPruneError
from .schedule import Schedule

TRIED = (64, 576)  # a level and tokens that every schedule must have rows for


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule whose rows do not go with its layers, before a forward pass asks for them.

    Raises
    ------
    OptionError
        When there is no cut, a layer or what is left is no whole number, or there are not as many numbers of
        rows as layers.
    PluginError
        When it cannot say how many rows are left.
    """
    what = type(schedule).__name__
    layers = schedule.layers
    if not isinstance(layers, tuple) or not layers or not all(map(_is_whole, layers)):
        raise OptionError(f"{what}: layers is a tuple of one or more layer numbers, got {layers!r}")
    try:
        rows = schedule.rows_at(*TRIED)
    except TokenPruneError:
        raise
    except Exception as error:  # a stranger's code
        raise PluginError(f"{what} failed to say its rows: {type(error).__name__}: {error}") from error
    if not isinstance(rows, tuple) or not all(map(_is_whole, rows)):
        raise OptionError(f"{what}: rows are whole numbers, one for each cut, got {rows!r}")
    if len(rows) != len(layers):
        raise OptionError(
            f"{what} says {len(rows)} numbers of rows for cuts before {len(layers)} layers "
            f"({', '.join(map(str, layers))}); give it as many of one as of the other"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
