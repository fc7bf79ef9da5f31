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


class Looks(tokenprune.Scorer):
    """Notes the layout of the tokens that it is given."""

    name = "looks"

    def __init__(self):
        self.layouts = []

    def score(self, tokens):
        self.layouts.append(tokens.layout)


@pytest.mark.parametrize(
    ("rules", "has_newlines"),
    [
        ({"stage": "projector", "newlines": "compete"}, True),
        ({"stage": "projector", "newlines": "drop", "scope": "tile"}, False),
        ({"stage": "decoder", "newlines": "compete"}, True),
        ({"stage": "decoder", "newlines": "drop"}, False),
    ],
    ids=str,
)
def test_a_scorer_sees_the_tiles_and_their_grids_before_the_first_cut(rules, has_newlines):
    case, looks = Case("llava_next"), Looks()
    inputs = case.inputs((3, ("I", 40, 64), 5))[0]
    schedule = tokenprune.GeometricSchedule((1, 2), depth=None) if rules["stage"] == "decoder" else None
    method = tokenprune.Method(name="m", scorer=looks, selector="topk", schedule=schedule, **rules)
    with tokenprune.apply(case.model, method=method, keep=10):
        case.model(**inputs)
    first, *later = looks.layouts
    assert first.tile_grids == ((4, 4), (3, 4), (3, 4), (3, 4), (3, 4))
    assert bool(first.newlines.any()) == has_newlines
    assert torch.bincount(first.tiles[~first.newlines]).tolist() == [16, 12, 12, 12, 12]
    assert [layout.tiles for layout in later] == [None] * (schedule is not None)


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
