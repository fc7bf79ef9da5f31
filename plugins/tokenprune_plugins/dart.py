# SPDX-License-Identifier: Apache-2.0
"""DART: keep a few pivots and the tokens least similar to them. Wen et al., EMNLP 2025, arXiv 2502.11494."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import even_slots, top_slots, unit_rows

from .attention_layer import attention_layer
from .key_norm import key_norm


@dataclass(frozen=True)
class DartSelector(tokenprune.Selector):
    """Keeps the image tokens of highest score as pivots, and the tokens least similar to each pivot.

    Text tokens with the largest keys serve as pivots too.

    Parameters
    ----------
    n_image_pivots, n_text_pivots
        Number of pivots. Image pivots are kept; text pivots are only compared with.
    visit
        Order in which pivots are visited: `"listed"` for image pivots by score, then text pivots by key
        norm; `"set"` for the iteration order of a Python set of their positions, as in the official code.
    """

    name: ClassVar[str] = "dart"
    space: ClassVar[str | None] = "features"
    n_image_pivots: int = 4
    n_text_pivots: int = 4
    visit: str = "listed"

    def __post_init__(self) -> None:
        if self.n_image_pivots < 1 or self.n_text_pivots < 0:
            raise tokenprune.OptionError(
                f"n_image_pivots must be at least 1 and n_text_pivots at least 0, got "
                f"n_image_pivots={self.n_image_pivots}, n_text_pivots={self.n_text_pivots}"
            )
        if self.visit not in ("listed", "set"):
            raise tokenprune.OptionError(f"visit must be 'listed' or 'set', got {self.visit!r}")

    def check(self, model: nn.Module) -> None:
        """Raise an error for `visit="set"` on models whose position ids have several axes."""
        config: Any = getattr(model, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else None
        if self.visit == "set" and "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
            raise tokenprune.IncompatibleError(
                f"visit='set' needs a single position id per token, and {type(model).__name__} has three; "
                "use visit='listed'"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The text after the image, and the norm applied before rows are compared."""
        positions = {"position_ids", "text_position_ids"} if self.visit == "set" else set()
        return frozenset({"text_keys", "text_hidden", "final_norm"} | positions)

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return the image pivots and, in equal shares, the tokens least similar to each pivot."""
        norm, device = tokens.signal("final_norm"), tokens.features.device
        image = unit_rows(norm(tokens.features))
        n_pivots = min(self.n_image_pivots, keep)
        pivots = even_slots(len(tokens), n_pivots, device) if scores is None else top_slots(scores, n_pivots)
        text = unit_rows(norm(tokens.signal("text_hidden")(tokens.cut_layer)))
        text_norms = key_norm(tokens.signal("text_keys")(attention_layer(tokens, -1)))
        text_pivots = top_slots(text_norms, min(self.n_text_pivots, len(text)))
        directions = torch.cat([image[pivots], text[text_pivots]])
        if self.visit == "set":
            positions = torch.cat(
                [tokens.signal("position_ids")[pivots], tokens.signal("text_position_ids")[text_pivots]]
            ).tolist()
            directions = directions[[positions.index(position) for position in set(positions)]]
        return tokenprune.Selection.from_order(least_like(image, pivots, directions, keep))


def least_like(unit: Tensor, chosen: Tensor, directions: Tensor, keep: int) -> Tensor:
    """Return `chosen`, then for each direction (P, D) the slots of the rows (N, D) of lowest cosine to it.

    Returns (keep,). Directions get equal shares of the remaining slots, the first ones one more if needed.
    """
    order = [chosen]
    similarity = directions @ unit.mT  # (P, N)
    similarity[:, chosen] = torch.inf
    share, remainder = divmod(keep - len(chosen), len(directions))
    for i in range(len(directions)):
        order.append(top_slots(-similarity[i], share + (i < remainder)))
        similarity[:, order[-1]] = torch.inf
    return torch.cat(order)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Return the selector class."""
    return [DartSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: one cut before layer 2."""
    return [
        tokenprune.Method(
            name="dart",
            title="DART: pivots, and the tokens least similar to them",
            scorer="key-norm",
            selector="dart",
            stage="decoder",
            schedule=tokenprune.GeometricSchedule(layers=(2,)),
            positions="original",
            newlines="compete",
            paper="arXiv 2502.11494 (EMNLP 2025)",
            deviations=(
                "keep is exact, remainders go to the first pivots; the official code keeps 4 more tokens",
                "pivots are visited as listed; the official order is that of a Python set (visit='set')",
                "the norm of rotated keys depends on positions, and plain calls without position_ids "
                "count left padding; the official code does not support batches",
            ),
        )
    ]
