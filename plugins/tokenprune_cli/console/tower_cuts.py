# SPDX-License-Identifier: Apache-2.0
"""Cuts inside the vision tower on the command line."""

from __future__ import annotations

from tokenprune_cli.console.failures import BadInputError


def layer_and_keep(text: str) -> tuple[int, int]:
    """Return the block and the number of tokens of `--tower-cut LAYER:N`."""
    layer, separator, keep = text.partition(":")
    if not separator or not layer.isdecimal() or not keep.isdecimal() or int(keep) < 1:
        raise BadInputError(
            f"--tower-cut must be LAYER:N, a block of the vision tower and the tokens left from it on, such "
            f"as 4:288; got {text!r}"
        )
    return int(layer), int(keep)
