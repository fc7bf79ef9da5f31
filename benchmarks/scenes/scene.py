# SPDX-License-Identifier: Apache-2.0
"""Draw a scene: coloured objects, signs and distractors on a textured background.

The layout is a 4 x 4 grid of cells; everything has its own cell, so that nothing is occluded. Objects start
on a half-patch lattice, and the smallest cover exactly one patch of the embedded model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scenes.background import draw_background
from benchmarks.scenes.palette import (
    COLOR_NAMES,
    COLORS,
    DISTRACTOR_COLORS,
    DISTRACTOR_SHAPES,
    SHAPE_NAMES,
    shape_mask,
)
from benchmarks.scenes.sign import SIGN_HEIGHT, Sign, paint_sign

IMAGE_SIDE = 96
PATCH_SIDE = 8
MAX_COUNT = 4  # no colour and no shape occurs more often than this in a scene
_CELL, _CELLS = 24, 4
_SIZES = (8, 8, 12, 16, 20)
_BIG_SIZES = (32, 40)
_BIG_SHARE = 0.25
_N_SIGNS_SHARE = (0.2, 0.55, 0.25)  # scenes with no, one and two signs
_THEME_COUNT_SHARE = (
    0.0,
    0.25,
    0.35,
    0.4,
)  # how often the theme colour (or shape) occurs 1, 2, 3 and 4 times


@dataclass(frozen=True)
class SceneObject:
    """A coloured shape; `top` and `left` are the corner of its square bounding box of `size` pixels."""

    color: str
    shape: str
    top: int
    left: int
    size: int

    @property
    def center(self) -> tuple[float, float]:
        """Row and column of the centre, in pixels."""
        return self.top + self.size / 2, self.left + self.size / 2


@dataclass(frozen=True, eq=False)
class Scene:
    """An image, uint8 (S, S, 3), and its content; no question is about `distractors`."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    signs: tuple[Sign, ...]
    distractors: tuple[SceneObject, ...]


def _draw_names(rng: np.random.Generator, n: int, names: Sequence[str]) -> list[str]:
    """Draw names with one frequent name, the theme: otherwise counts would rarely be 3 or 4."""
    theme = names[int(rng.integers(len(names)))]
    n_theme = min(n, 1 + int(rng.choice(MAX_COUNT, p=_THEME_COUNT_SHARE)))
    others = [name for name in names if name != theme]
    while True:
        rest = [others[i] for i in rng.integers(len(others), size=n - n_theme)]
        if all(rest.count(name) <= MAX_COUNT for name in others):
            break
    drawn = [theme] * n_theme + rest
    return [drawn[i] for i in rng.permutation(n)]


def _place(rng: np.random.Generator, cell: tuple[int, int], room: int, size: int) -> tuple[int, int]:
    """Draw the corner of a box in a square of `room` pixels, on whole (smallest box) or half patches."""
    lattice = PATCH_SIDE if size == PATCH_SIDE else PATCH_SIDE // 2
    steps = rng.integers(0, (room - size) // lattice + 1, size=2)
    return cell[0] * _CELL + lattice * int(steps[0]), cell[1] * _CELL + lattice * int(steps[1])


def _paint(
    rng: np.random.Generator, image: np.ndarray, thing: SceneObject, rgb: tuple[int, int, int]
) -> None:
    spot = image[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
    tint = np.array(rgb, np.float32) * rng.uniform(0.85, 1.08) + rng.normal(0, 8, 3).astype(np.float32)
    spot += (tint - spot) * shape_mask(thing.shape, thing.size)[..., None]


def draw_scene(rng: np.random.Generator, n_signs: int | None = None) -> Scene:
    """Draw a scene from a generator, with `n_signs` signs (None: a random number from 0 to 2)."""
    if n_signs not in (None, 0, 1, 2):
        raise ValueError(f"n_signs must be 0, 1, 2 or None, got {n_signs!r}")
    image = draw_background(rng, IMAGE_SIDE)
    n = int(rng.integers(4, 9))
    kinds = list(zip(_draw_names(rng, n, COLOR_NAMES), _draw_names(rng, n, SHAPE_NAMES), strict=True))
    cells = [(r, c) for r in range(_CELLS) for c in range(_CELLS)]

    objects = []
    if rng.random() < _BIG_SHARE:
        row, column = (int(v) for v in rng.integers(_CELLS - 1, size=2))
        size = int(rng.choice(_BIG_SIZES))
        objects.append(SceneObject(*kinds.pop(), *_place(rng, (row, column), 2 * _CELL, size), size))
        cells = [
            cell for cell in cells if not (row <= cell[0] <= row + 1 and column <= cell[1] <= column + 1)
        ]
    cells = [cells[i] for i in rng.permutation(len(cells))]

    signs = []
    first_is_light = rng.random() < 0.5
    for i in range(rng.choice(3, p=_N_SIGNS_SHARE) if n_signs is None else n_signs):
        row, column = cells.pop()
        top = row * _CELL + int(rng.integers(_CELL - SIGN_HEIGHT + 1))
        signs.append(Sign(int(rng.integers(10, 100)), bool(first_is_light) ^ bool(i), top, column * _CELL))
    for color, shape in kinds:
        size = int(rng.choice(_SIZES))
        objects.append(SceneObject(color, shape, *_place(rng, cells.pop(), _CELL, size), size))
    distractors = []
    for _ in range(min(int(rng.integers(0, 3)), len(cells))):
        size = int(rng.choice(_SIZES[2:]))
        color = tuple(DISTRACTOR_COLORS)[rng.integers(2)]
        shape = DISTRACTOR_SHAPES[rng.integers(2)]
        distractors.append(SceneObject(color, shape, *_place(rng, cells.pop(), _CELL, size), size))

    for sign in signs:
        paint_sign(rng, image, sign)
    for thing in objects + distractors:
        _paint(rng, image, thing, (COLORS | DISTRACTOR_COLORS)[thing.color])
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(objects), tuple(signs), tuple(distractors))
