# SPDX-License-Identifier: Apache-2.0
"""Score visual tokens by the attention they receive.

Used by VisionZip and VisPruner (attention of the tower's CLS token; arXiv 2412.04467 and 2412.01818), by
HiPrune (attention of all tokens in a block of the tower; arXiv 2508.00553), and by FastV and PyramidDrop
(attention of the prompt's last token in the decoder; arXiv 2403.06764 and 2410.17247).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune

from .attention_layer import attention_layer

HEADS: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}
# default of an option, and the sources that it belongs to
OF_SOURCES = {"offset": (-1, ["text"]), "heads": ("mean", ["cls", "text"]), "block": (None, ["tower"])}
SIGNAL_OF = {
    "cls": "cls_attention",
    "received": "received_attention",
    "tower": "tower_received",
    "text": "attention_rows",
}


@dataclass(frozen=True)
class AttentionScorer(tokenprune.Scorer):
    """Attention probabilities that a token receives, averaged over heads by default.

    Parameters
    ----------
    source
        `"cls"`: from the tower's CLS token. `"received"`: from all patches, for towers without a CLS token.
        `"tower"`: from all patches and the CLS token if there is one, in the block `block` of the tower.
        `"text"`: from the last token of the prompt, in the decoder.
    offset
        For `"text"`, the layer whose attention is used, relative to the layer before the cut: -1 for the last
        layer run, 0 for the next layer to run.
    heads
        How the attention of the heads is combined, `"mean"`, `"sum"` or `"max"`; for `"received"` and
        `"tower"` it is a mean.
    block
        For `"tower"`, the block whose attention is used, from 0; by default the last whose output is
        projected.
    """

    name: ClassVar[str] = "attention"
    source: str = "cls"
    offset: int = -1
    heads: str = "mean"
    block: int | None = None
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.source not in SIGNAL_OF:
            raise tokenprune.OptionError(
                f"source must be one of {', '.join(map(repr, SIGNAL_OF))}, got {self.source!r}"
            )
        if self.heads not in HEADS:
            raise tokenprune.OptionError(
                f"heads must be one of {', '.join(map(repr, HEADS))}, got {self.heads!r}"
            )
        for option, (default, sources) in OF_SOURCES.items():
            value = getattr(self, option)
            if value != default and self.source not in sources:
                raise tokenprune.OptionError(
                    f"{option}={value!r} is for source={' or '.join(map(repr, sources))}, got {self.source!r}"
                )

    @property
    def needs(self) -> frozenset[str]:
        """Name of the attention signal that `source` selects, and the tower's depth for its last block."""
        return frozenset({SIGNAL_OF[self.source]} | ({"tower_depth"} if self.source == "tower" else set()))

    def tower_blocks(self, depth: int) -> tuple[int, ...]:
        """Return the block of `source="tower"`."""
        if self.source != "tower":
            return ()
        return (depth - 1 if self.block is None else self.block,)

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the attention each token receives, (N,) or (B, N)."""
        signal = tokens.signal(SIGNAL_OF[self.source])
        if self.source == "received":
            return torch.as_tensor(signal).float()
        if self.source == "tower":
            (block,) = self.tower_blocks(tokens.signal("tower_depth"))
            return torch.as_tensor(signal(block)).float()
        if self.source == "text":
            last = torch.tensor([-1], device=tokens.features.device)
            signal = signal(attention_layer(tokens, self.offset), last).squeeze(-2)  # (H, 1, N) -> (H, N)
        received: Tensor = HEADS[self.heads](signal.float(), -2)
        return received


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [AttentionScorer]
