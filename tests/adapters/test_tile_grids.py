# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT's tiles know their grids, cropped ones too: a tile is pooled as the picture it is."""

import pytest
import tiny_models
import torch
from model_cases import Case

import tokenprune


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((64, 64), ((4, 4), (4, 4), (4, 4), (4, 4), (4, 4))),
        ((32, 64), ((4, 4), (4, 4), (4, 4))),  # two tiles beside each other
        ((40, 64), ((4, 4), (3, 4), (3, 4), (3, 4), (3, 4))),  # a line of patches of each is padding
    ],
)
def test_grids(size, grids):
    case = Case("llava_next")
    inputs = case.inputs((3, ("I", *size), 5))[0]
    with tokenprune.apply(case.model, method="pool", keep=10) as handle:
        case.model(**inputs)
    layout = handle.last.images[0].layout
    assert layout.tile_grids == grids
    patches = torch.bincount(layout.tiles[~layout.newlines], minlength=len(grids))
    assert patches.tolist() == [h * w for h, w in grids]


def test_pooling_a_tiled_picture_is_pooling_its_tiles():
    """4 rows a tile of 4 x 4 patches are 2 x 2 pooling of what the projector gave."""
    case = Case("llava_next")
    inputs = tiny_models.llava_next_inputs(case.model, [(3, "I", 5)], [(64, 64)])
    seen = []
    hook = case.model.model.multi_modal_projector.register_forward_hook(lambda m, a, out: seen.append(out))
    with tokenprune.apply(case.model, method="pool", keep=20) as handle:
        case.model(**inputs)
    hook.remove()
    tiles = seen[0]  # (5, 16, D)
    plain = torch.nn.functional.avg_pool2d(tiles.mT.unflatten(-1, (4, 4)), 2).flatten(2).mT
    torch.testing.assert_close(handle.last.images[0].selection.features, plain.flatten(0, 1))
