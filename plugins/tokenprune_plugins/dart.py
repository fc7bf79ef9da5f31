# SPDX-License-Identifier: Apache-2.0
"""DART: a few pivots, and the tokens least like them. Wen et al., EMNLP 2025, arXiv 2502.11494."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import even_slots, top_slots, unit_rows

from .attention import attention_layer
from .key_norm import key_norm


@dataclass(frozen=True)
class DartSelector(tokenprune.Selector):
    """Pivots of the image by score and of the text by size of keys, and the tokens least like each pivot.

    Parameters
    ----------
    n_image_pivots, n_text_pivots
        How many pivots. The image's are kept themselves.
    visit
        Order of the pivots: `"listed"`, the image's by score, then the text's by size; or `"set"`, the order
        in which Python iterates a set of their positions, as the official code does.
    """

    name: ClassVar[str] = "dart"
    space: ClassVar[str | None] = "features"
    n_image_pivots: int = 4
    n_text_pivots: int = 4
    visit: str = "listed"

    def __post_init__(self) -> None:
        if self.n_image_pivots < 1 or self.n_text_pivots < 0:
            raise tokenprune.OptionError(
                f"there must be an image pivot at least, got n_image_pivots={self.n_image_pivots}, "
                f"n_text_pivots={self.n_text_pivots}"
            )
        if self.visit not in ("listed", "set"):
            raise tokenprune.OptionError(f"visit must be 'listed' or 'set', got {self.visit!r}")

    def check(self, model: nn.Module) -> None:
        """Refuse the order of a set where a token's position is not one number."""
        config: Any = getattr(model, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else None
        if self.visit == "set" and "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
            raise tokenprune.IncompatibleError(
                f"visit='set' orders pivots by their position, and on {type(model).__name__} a position is "
                "three numbers; use visit='listed'"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The text after the image, and the norm before rows are compared."""
        positions = {"position_ids", "text_position_ids"} if self.visit == "set" else set()
        return frozenset({"text_keys", "text_hidden", "final_norm"} | positions)

    def select(
        self, tokens: tokenprune.VisualTokens, scores: Tensor | None, keep: int
    ) -> tokenprune.Selection:
        """Return the image pivots and, shared out evenly, the tokens least like each pivot."""
        norm, device = tokens.signal("final_norm"), tokens.features.device
        image = unit_rows(norm(tokens.features))
        n_pivots = min(self.n_image_pivots, keep)
        pivots = even_slots(len(tokens), n_pivots, device) if scores is None else top_slots(scores, n_pivots)
        text = unit_rows(norm(tokens.signal("text_hidden")(tokens.cut_layer)))
        words = key_norm(tokens.signal("text_keys")(attention_layer(tokens, -1)))
        words = top_slots(words, min(self.n_text_pivots, len(text)))
        directions = torch.cat([image[pivots], text[words]])
        if self.visit == "set":
            positions = torch.cat(
                [tokens.signal("position_ids")[pivots], tokens.signal("text_position_ids")[words]]
            ).tolist()
            directions = directions[[positions.index(position) for position in set(positions)]]
        return tokenprune.Selection.from_order(least_like(image, pivots, directions, keep))


def least_like(unit: Tensor, chosen: Tensor, directions: Tensor, keep: int) -> Tensor:
    """Slots (keep,): `chosen`, then for each direction (P, D) in turn the rows (N, D) of lowest cosine to it.

    Each direction gets the same share of the rest, the first ones one more where it does not divide.
    """
    order = [chosen]
    similarity = directions @ unit.mT  # (P, N)
    similarity[:, chosen] = torch.inf
    share, more = divmod(keep - len(chosen), len(directions))
    for number in range(len(directions)):
        order.append(top_slots(-similarity[number], share + (number < more)))
        similarity[:, order[-1]] = torch.inf
    return torch.cat(order)


@tokenprune.hookimpl
def tokenprune_selectors() -> list[type[tokenprune.Selector]]:
    """Deliver the selector."""
    return [DartSelector]


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Deliver the method: one cut before layer 2."""
    return [
        tokenprune.Method(
            name="dart",
            title="DART: pivots, and the tokens least like them",
            scorer="key-norm",
            selector="dart",
            stage="decoder",
            schedule=tokenprune.GeometricSchedule(layers=(2,)),
            positions="original",
            newlines="compete",
            paper="arXiv 2502.11494 (EMNLP 2025)",
            deviations=(
                "keep is exact, remainders go to the first pivots; the official code keeps 4 tokens more",
                "pivots are visited as listed; the official order is that of a Python set (visit='set')",
                "the size of rotated keys depends on positions, among which plain calls without position_ids "
                "count left padding; the official code takes no batches",
            ),
        )
    ]
