# SPDX-License-Identifier: Apache-2.0
"""The decoder layer whose attention a cut reads."""

from __future__ import annotations

import tokenprune


def attention_layer(tokens: tokenprune.VisualTokens, offset: int) -> int:
    """Return the index of the layer `offset` layers from the cut."""
    layer = tokens.cut_layer + offset
    if layer < 0:
        raise tokenprune.IncompatibleError(
            f"a cut before layer {tokens.cut_layer} needs attention of layer {layer}, which does not exist; "
            "cut before layer 1 or later"
        )
    return layer
