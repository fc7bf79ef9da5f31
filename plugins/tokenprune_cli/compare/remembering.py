# SPDX-License-Identifier: Apache-2.0
"""A method that chooses once and keeps to its choice: what a cache holds, for whatever is asked next.

The picture stands before the question, and attention is causal: with the same tokens cut before the same
layers, the picture's rows in the cache do not depend on the words after it. So a new question put to a cache,
the words of the first one taken back, is a run with the first question's choices.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import tokenprune
from tokenprune_cli.evaluation.settings import Setting


@dataclass
class Choices:
    """Selections in the order in which they were made; once `is_kept`, they are given again in that order."""

    made: list[tokenprune.Selection] = field(default_factory=list)
    is_kept: bool = False
    place: int = 0

    def rewind(self) -> None:
        """Keep to what was chosen, from the first choice on."""
        self.is_kept, self.place = True, 0


@dataclass(frozen=True)
class RememberingMethod(tokenprune.Method):
    """Any method, with a memory."""

    choices: Choices = field(default_factory=Choices, compare=False)

    def select(
        self, tokens: tokenprune.VisualTokens, keep: int | tokenprune.Budget, *, layer: int | None = None
    ) -> tokenprune.Selection:
        """Choose, or give the choice that was made here before."""
        if not self.choices.is_kept:
            self.choices.made.append(super().select(tokens, keep, layer=layer))
            return self.choices.made[-1]
        self.choices.place += 1
        return self.choices.made[self.choices.place - 1]


def remembering(setting: Setting) -> RememberingMethod:
    """Return the method of a setting, with a memory of its own."""
    own = tokenprune.method(setting.method or "")
    fields = {f.name: getattr(own, f.name) for f in dataclasses.fields(tokenprune.Method)}
    return RememberingMethod(**fields)
