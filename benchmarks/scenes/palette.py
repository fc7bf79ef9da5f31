# SPDX-License-Identifier: Apache-2.0
"""Colours and shapes of the scenes, and the masks of shapes."""

from __future__ import annotations

from functools import cache

import numpy as np

COLORS = {
    "red": (215, 35, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (240, 215, 45),
    "purple": (150, 45, 180),
    "orange": (245, 130, 25),
    "cyan": (40, 205, 215),
}
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
}
COLOR_NAMES = tuple(COLORS)
SHAPE_NAMES = tuple(PLURALS)

# Distractors are as saturated as objects, but neither their colours nor their shapes are ever asked about.
DISTRACTOR_COLORS = {"pink": (255, 120, 190), "lime": (170, 250, 60)}
DISTRACTOR_SHAPES = ("ring", "diamond")

_OVERSAMPLING = 4  # sub-pixels per side, for smooth edges
_STAR_TIP, _STAR_WAIST = 1.02, 0.42  # radii of a five-pointed star


def _star(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    half_angle = np.pi / 5
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    to_tip = np.abs((angle + half_angle) % (2 * half_angle) - half_angle)
    px, py = radius * np.cos(to_tip), radius * np.sin(to_tip)
    waist_x, waist_y = _STAR_WAIST * np.cos(half_angle), _STAR_WAIST * np.sin(half_angle)
    inside: np.ndarray = (waist_x - _STAR_TIP) * py - waist_y * (px - _STAR_TIP) >= 0
    return inside


@cache
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Return the coverage of each pixel by a shape, (size, size), in [0, 1]; read-only, because cached."""
    n = size * _OVERSAMPLING
    y, x = (np.mgrid[0:n, 0:n] + 0.5) / n * 2 - 1
    if shape == "circle":
        inside = x * x + y * y <= 1
    elif shape == "square":
        inside = (abs(x) <= 0.9) & (abs(y) <= 0.9)
    elif shape == "triangle":
        inside = (y <= 0.92) & (abs(x) <= (y + 0.95) / 1.9)
    elif shape == "star":
        inside = _star(y, x)
    elif shape == "cross":
        inside = ((abs(x) <= 0.3) | (abs(y) <= 0.3)) & (abs(x) <= 0.98) & (abs(y) <= 0.98)
    elif shape == "ring":
        inside = (x * x + y * y <= 1) & (x * x + y * y >= 0.3)
    elif shape == "diamond":
        inside = abs(x) + abs(y) <= 1
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPE_NAMES + DISTRACTOR_SHAPES)}")
    mask: np.ndarray = (
        inside.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).mean((1, 3)).astype(np.float32)
    )
    mask.setflags(write=False)
    return mask
