# SPDX-License-Identifier: Apache-2.0
"""Count the visual rows that are kept during a run."""

from __future__ import annotations

from dataclasses import dataclass

from tokenprune import PruningReport


@dataclass
class KeptRows:
    """Sums over images of the tokens before pruning, the rows kept, and the mean rows entering a layer."""

    n_layers: int
    images: int = 0
    before: int = 0
    after: int = 0
    entering: float = 0.0

    def add(self, report: PruningReport) -> None:
        """Add the images of one prefill."""
        for image in report.images:
            self.images += 1
            self.before += image.n_before
            self.after += image.n_after
            self.entering += sum(image.rows_entering(self.n_layers)) / self.n_layers

    def means(self) -> dict[str, float]:
        """Return the means over the images, by name; empty if there was no image."""
        if not self.images:
            return {}
        sums = {
            "visual_tokens": self.before,
            "visual_rows_kept": self.after,
            "visual_rows_entering_a_layer": self.entering,
        }
        return {name: total / self.images for name, total in sums.items()}

    def __str__(self) -> str:
        if not self.images:
            return "kept no rows: there were no images"
        tokens, kept, entering = self.means().values()
        return (
            f"kept {kept:.1f} of {tokens:.1f} visual rows per image, {entering:.1f} enter a layer of the "
            f"language model (means over {self.images} images)"
        )
