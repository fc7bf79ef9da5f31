# SPDX-License-Identifier: Apache-2.0
"""CLSE: three cuts, the first by the change of spatial detail. ECCV 2026, arXiv 2606.24165."""

from __future__ import annotations

from dataclasses import dataclass

import tokenprune

from .nominal_rows import check_number_of_layers, rows_between

# The official code's lists: rows after each cut for a nominal budget, of 576 tokens (LLaVA-1.5) or as shares
OFFICIAL_N = 576
LLAVA = ((64, (110, 70, 20)), (128, (220, 140, 41)), (192, (330, 210, 62)))
QWEN = ((0.112, (0.19, 0.12, 0.034)), (0.223, (0.38, 0.24, 0.066)), (0.334, (0.57, 0.36, 0.098)))
LAYERS = {28: (1, 10, 19), 32: (1, 11, 21), 36: (1, 13, 24)}  # by the depth of the model
ROUNDING = 1e-6  # 0.57 * 100 is 57, although not in binary fractions


@dataclass(frozen=True)
class ClseSchedule(tokenprune.Schedule):
    """The official lists of budgets for LLaVA-1.5, interpolated and scaled by N / 576.

    Below the smallest list rows scale in proportion to it; above the largest, towards keeping all tokens.
    Models of 28, 32 and 36 layers are cut before the published layers; others before those of 32, rescaled.
    """

    layers: tuple[int, ...] = LAYERS[32]
    depth: int | None = 32

    def boundaries(self, n_layers: int) -> tuple[int, ...]:
        """Return the layers of the cuts in a model of `n_layers`; see `tokenprune.Schedule`."""
        if (self.layers, self.depth) == (LAYERS[32], 32) and n_layers in LAYERS:
            return LAYERS[n_layers]
        return super().boundaries(n_layers)

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left after each cut at a nominal budget of `level` of `n`.

        Raises
        ------
        OptionError
            If there are not three layers.
        """
        check_number_of_layers("CLSE", self.layers, LLAVA, [1, 11, 21])
        rows = rows_between(LLAVA, level * OFFICIAL_N / n, OFFICIAL_N)
        return tuple(max(1, round(of_official * n / OFFICIAL_N)) for of_official in rows)


@dataclass(frozen=True)
class ClseRatioSchedule(ClseSchedule):
    """The official lists for Qwen2-VL: shares of the image's tokens, rounded down, and between the lists.

    A list applies where the nominal budget is its share of the tokens, rounded to the nearest number: 192,
    128 (0.223) and 65 (0.112) of 576.
    """

    def rows_at(self, level: int, n: int) -> tuple[int, ...]:
        """Return the rows left after each cut at a nominal budget of `level` of `n`, as `ClseSchedule`."""
        check_number_of_layers("CLSE", self.layers, QWEN, [1, 11, 21])
        lists = [(int(share * n + 0.5 + ROUNDING), tuple(r * n for r in shares)) for share, shares in QWEN]
        return tuple(max(1, int(rows + ROUNDING)) for rows in rows_between(lists, level, n))


@tokenprune.hookimpl
def tokenprune_methods() -> list[tokenprune.Method]:
    """Return the method: cuts before layers 1, 11 and 21 of 32, original positions."""
    return [
        tokenprune.Method(
            name="clse",
            title="CLSE: change of spatial detail in the first layer, and attention of the last prompt token",
            scorer="spectral",
            selector="topk",
            stage="decoder",
            schedule=ClseSchedule(),
            positions="original",
            trim_early_cache=True,
            scope="image",
            newlines="compete",
            paper="arXiv 2606.24165 (ECCV 2026)",
            deviations=(
                "budgets between the published lists are interpolated; the official code multiplies by fixed "
                "factors and then fails",
                "a video is filtered frame by frame and a tiled image tile by tile; the official code takes "
                "a single grid",
                "tokens without a known grid are ranked by attention alone, also at the first cut",
                "the shares of Qwen2-VL's lists are multiplied exactly before rounding down",
            ),
        )
    ]
