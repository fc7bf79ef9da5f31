# SPDX-License-Identifier: Apache-2.0
"""Label each patch of a scene with what it shows, for the vision tower's training.

Labels are local: they contain nothing about the scene as a whole (no counts, no list of objects). A token
that described the whole scene would make every pruning method look good.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.scenes.palette import COLOR_NAMES, SHAPE_NAMES, shape_mask
from benchmarks.scenes.scene import IMAGE_SIDE, PATCH_SIDE, Scene
from benchmarks.scenes.sign import DIGIT_HEIGHT, DIGIT_WIDTH, SIGN_HEIGHT, SIGN_WIDTH

GRID_SIDE = IMAGE_SIDE // PATCH_SIDE
N_PATCHES = GRID_SIDE**2
OCCUPANCY_SIDE = 4  # sub-patches per side
_MIN_OBJECT_PIXELS, _MIN_SIGN_PIXELS = 7, 16
N_SUMMARY = len(COLOR_NAMES) * len(SHAPE_NAMES) + 20


@dataclass(frozen=True, eq=False)
class PatchLabels:
    """Labels of the N patches, in raster order; class 0 means none.

    `color`, `shape`, `tens`, `units`, `sign` (1 light, 2 dark): (N,) class indices; `center`: (N,) whether an
    object's centre is here; `offset`: (N, 2) from the patch to its object's centre in units of two patches;
    `occupancy`: (N, 16) share of each sub-patch that an object covers. `summary`: (M,) which colour-shape
    pairs and digits occur, for the class token, which the language model never receives.
    """

    color: np.ndarray
    shape: np.ndarray
    center: np.ndarray
    offset: np.ndarray
    tens: np.ndarray
    units: np.ndarray
    sign: np.ndarray
    occupancy: np.ndarray
    summary: np.ndarray


def _covered(top: int, left: int, coverage: np.ndarray) -> np.ndarray:
    """Return the number of pixels covered by an object in each patch, (grid, grid)."""
    canvas = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.float32)
    canvas[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
    pixels: np.ndarray = canvas.reshape(GRID_SIDE, PATCH_SIDE, GRID_SIDE, PATCH_SIDE).sum((1, 3))
    return pixels


def label_patches(scene: Scene) -> PatchLabels:
    """Label the patches of a scene."""
    color, shape, tens, units, sign_tone = np.zeros((5, GRID_SIDE, GRID_SIDE), np.int64)
    center = np.zeros((GRID_SIDE, GRID_SIDE), np.float32)
    offset = np.zeros((GRID_SIDE, GRID_SIDE, 2), np.float32)
    painted = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.float32)
    summary = np.zeros(N_SUMMARY, np.float32)
    most = np.full((GRID_SIDE, GRID_SIDE), _MIN_OBJECT_PIXELS, np.float32)
    for o in scene.objects:
        c, s = COLOR_NAMES.index(o.color), SHAPE_NAMES.index(o.shape)
        mask = shape_mask(o.shape, o.size)
        painted[o.top : o.top + o.size, o.left : o.left + o.size] = mask
        pixels = _covered(o.top, o.left, mask)
        here = pixels > most  # a patch shows the object that covers most of it
        most[here], color[here], shape[here] = pixels[here], c + 1, s + 1
        middle = np.array(o.center) / PATCH_SIDE
        center[tuple(middle.astype(int))] = 1
        offset[here] = (middle - np.argwhere(here) - 0.5) / 2
        summary[c * len(SHAPE_NAMES) + s] = 1
    for sign in scene.signs:
        panel = _covered(sign.top, sign.left, np.ones((SIGN_HEIGHT, SIGN_WIDTH), np.float32))
        sign_tone[panel >= _MIN_SIGN_PIXELS] = 1 if sign.is_light else 2
        for place, (digit, top, left) in zip((tens, units), sign.digit_corners(), strict=True):
            pixels = _covered(top, left, np.ones((DIGIT_HEIGHT, DIGIT_WIDTH), np.float32))
            place[pixels >= _MIN_SIGN_PIXELS] = digit + 1
            summary[N_SUMMARY - 20 + 10 * (place is units) + digit] = 1
    n, sub = OCCUPANCY_SIDE, PATCH_SIDE // OCCUPANCY_SIDE
    occupancy = painted.reshape(GRID_SIDE, n, sub, GRID_SIDE, n, sub).mean((2, 5))
    return PatchLabels(
        color=color.ravel(),
        shape=shape.ravel(),
        center=center.ravel(),
        offset=offset.reshape(-1, 2),
        tens=tens.ravel(),
        units=units.ravel(),
        sign=sign_tone.ravel(),
        occupancy=occupancy.transpose(0, 2, 1, 3).reshape(-1, n * n),
        summary=summary,
    )
