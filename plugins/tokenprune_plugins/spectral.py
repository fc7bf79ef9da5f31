# SPDX-License-Identifier: Apache-2.0
"""Score visual tokens by how much their spatial detail changes in the first decoder layers, times attention.

The score of CLSE (ECCV 2026, arXiv 2606.24165). With s0 and s1 the mean magnitude of the high-pass filtered
rows at layer 0 and at the cut: e = min(|s1 - s0| / (mean s0 + s0), 1), z = (e - mean e) / std e, and the
score is sigmoid(z / temperature) times the attention of the prompt's last row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

import tokenprune

from .attention import AttentionScorer

EPS = 1e-6  # of the official code
Grid = tuple[Tensor, tuple[int, int]]  # slots of the patches that fill one grid (h, w), or several


@dataclass(frozen=True)
class SpectralScorer(tokenprune.Scorer):
    """Change of spatial detail since layer 0, times the attention of the prompt's last row.

    Where the tokens do not fill a known grid, as after an earlier cut, the score is the attention alone. The
    frames of a video and the tiles of an image are filtered one by one, and then compared together. Newline
    tokens have no place on a grid: the mean weight of the patches is theirs.

    Parameters
    ----------
    cutoff
        Standard deviation of the Gaussian low-pass filter that is subtracted, as a share of the highest
        frequency along the grid's shorter side.
    temperature
        Of the sigmoid; at the default the weights are almost 0 or 1.
    """

    name: ClassVar[str] = "spectral"
    cutoff: float = 0.1
    temperature: float = 0.1
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for option in ("cutoff", "temperature"):
            value = getattr(self, option)
            if not 0 < value < float("inf"):
                raise tokenprune.OptionError(f"{option} must be a number above 0, got {value!r}")

    @property
    def needs(self) -> frozenset[str]:
        """Attention rows, and the image's rows at layer 0."""
        return frozenset({"attention_rows", "input_features"})

    def score(self, tokens: tokenprune.VisualTokens) -> Tensor:
        """Return the scores, (N,) or (B, N)."""
        attention = AttentionScorer(source="text").score(tokens)
        grids = patch_grids(tokens.layout)
        if not grids or tokens.signal("input_features").shape[-2] != len(tokens):
            return attention
        before, after = (
            spectral_magnitude(rows, grids, self.cutoff)
            for rows in (tokens.signal("input_features"), tokens.features)
        )
        weights = evolution(before, after, self.temperature)
        slots = torch.cat([own for own, _ in grids]).to(weights.device)
        of_all = weights.mean(-1, keepdim=True).repeat_interleave(len(tokens), -1)
        return of_all.index_copy(-1, slots, weights) * attention


def patch_grids(layout: tokenprune.Layout) -> list[Grid]:
    """Return the grids that the patches of an image fill, all frames together; none if they are unknown.

    Raises
    ------
    IncompatibleError
        When the grids of tiles are given, and their patches do not fill them.
    """
    slots = torch.arange(len(layout))
    if layout.newlines is not None:
        slots = slots[~layout.newlines.cpu()]
    if layout.tiles is None:
        t, h, w = layout.grid
        return [(slots, (h, w))] if t * h * w == len(slots) and (t, h) != (1, 1) else []
    tile, grids = layout.tiles.cpu()[slots], []
    for number, (h, w) in enumerate(layout.tile_grids):
        own = slots[tile == number]
        if len(own) != h * w:
            raise tokenprune.IncompatibleError(
                f"tile {number} of an image has a grid of {h} x {w} patches, but {len(own)} tokens: these "
                "cannot be filtered as a picture. Give a layout without tile_grids to score by attention"
            )
        if len(own):
            grids.append((own, (h, w)))
    return grids


def spectral_magnitude(rows: Tensor, grids: list[Grid], cutoff: float) -> Tensor:
    """Mean over channels of the magnitude of the high-pass filtered rows, (..., N, D) -> (..., n), float32.

    The n patches are those of the grids, one after the other. The filter multiplies the spectrum of each
    channel by 1 - exp(-|f|^2 / (2 sigma^2)), f in cycles per grid, sigma = cutoff times the smaller of h // 2
    and w // 2. The Gaussian is a product of one for each axis, so it is applied as two real matrices.
    """
    magnitudes = []
    for slots, (h, w) in grids:
        own = rows if len(slots) == rows.shape[-2] else rows[..., slots.to(rows.device), :]
        picture = own.detach().float().reshape(-1, h, w * own.shape[-1])  # (B t, h, w D)
        sigma = cutoff * min(h // 2, w // 2)
        across, down = (_low_pass(side, sigma, rows.device) for side in (w, h))
        lines = picture.view(-1, w, own.shape[-1])  # (B t h, w, D)
        smooth = torch.bmm(across.expand(len(lines), w, w), lines).view_as(picture)
        detail = torch.baddbmm(picture, down.expand(len(picture), h, h), smooth, alpha=-1)
        sums = torch.linalg.vector_norm(detail.view_as(own), 1, dim=-1)
        magnitudes.append(sums / own.shape[-1])
    return torch.cat(magnitudes, -1)


def _low_pass(n: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix (n, n) of a Gaussian low-pass filter along an axis; with sigma 0 only the mean passes."""
    frequency = torch.fft.fftfreq(n, dtype=torch.float64) * n
    gain = torch.exp(-(frequency**2) / (2 * sigma**2)) if sigma else (frequency == 0).double()
    place = torch.arange(n)
    matrix: Tensor = torch.fft.ifft(gain).real[(place[:, None] - place) % n]
    return matrix.to(device, torch.float32)


def evolution(before: Tensor, after: Tensor, temperature: float) -> Tensor:
    """Weights from the magnitudes at layer 0 and at the cut, (..., n), in (0, 1)."""
    change = (after - before).abs() / (before.mean(-1, keepdim=True) + before + EPS)
    change = change.clamp(max=1)
    spread = change.var(-1, keepdim=True, correction=min(1, change.shape[-1] - 1)).sqrt()
    z = (change - change.mean(-1, keepdim=True)) / (spread + EPS)
    return torch.sigmoid(z / temperature)


@tokenprune.hookimpl
def tokenprune_scorers() -> list[type[tokenprune.Scorer]]:
    """Return the scorer class."""
    return [SpectralScorer]
