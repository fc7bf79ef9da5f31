# SPDX-License-Identifier: Apache-2.0
"""Draw muted, textured backgrounds with grey clutter; no answer depends on them."""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmarks.scenes.palette import SHAPE_NAMES, shape_mask

_NOISE_SIDE = 512


@cache
def _noise() -> np.ndarray:
    """Return a table of pixel noise to crop at random: drawing noise anew would dominate a scene's cost."""
    return np.random.default_rng(7).normal(size=(_NOISE_SIDE, _NOISE_SIDE)).astype(np.float32)


def _smooth_field(field: np.ndarray, side: int) -> np.ndarray:
    """Upsample a coarse (k, k) field to (side, side) bilinearly."""
    t = np.linspace(0, field.shape[0] - 1.001, side)
    i = t.astype(int)
    f = (t - i).astype(np.float32)
    rows = field[i] * (1 - f)[:, None] + field[i + 1] * f[:, None]
    field = rows[:, i] * (1 - f) + rows[:, i + 1] * f
    return field


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    kind = rng.integers(5)
    axis = np.arange(side, dtype=np.float32)
    if kind == 0:
        return _smooth_field(rng.normal(0, 18, (4, 4)), side)
    if kind == 1:  # stripes
        period, phase, angle = rng.uniform(5, 16), rng.uniform(0, 9), rng.uniform(0, np.pi)
        wave = axis[:, None] * np.sin(angle) + axis[None] * np.cos(angle) + phase
        stripes: np.ndarray = np.sin(wave * 2 * np.pi / period) * rng.uniform(6, 20)
        return stripes
    if kind == 2:  # checks
        tile = axis // rng.integers(4, 13)
        return (tile[:, None] + tile[None]) % 2 * rng.uniform(10, 28)
    if kind == 3:  # a slope
        ramp = np.linspace(-1, 1, side)
        return ramp[:, None] * rng.uniform(-35, 35) + ramp[None] * rng.uniform(-35, 35)
    return _smooth_field(rng.normal(0, 22, (12, 12)), side)


def draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a background, float32 (side, side, 3), values around 0 to 255."""
    base = (rng.uniform(70, 180) + rng.normal(0, 14, 3)).astype(np.float32)
    image = np.empty((side, side, 3), np.float32)
    top, left = rng.integers(0, _NOISE_SIDE - side, 2)
    grain = _noise()[top : top + side, left : left + side] * rng.uniform(2, 9)
    image[:] = base + (_texture(rng, side) + grain)[..., None]
    for _ in range(rng.integers(4, 13)):
        size = int(rng.integers(3, 12))
        shape = SHAPE_NAMES[rng.integers(len(SHAPE_NAMES))]
        y, x = rng.integers(0, side - size, 2)
        alpha = shape_mask(shape, size)[..., None] * rng.uniform(0.5, 1)
        grey = base + rng.normal(0, 32) + rng.normal(0, 9, 3)
        image[y : y + size, x : x + size] += (grey - image[y : y + size, x : x + size]) * alpha
    return image
