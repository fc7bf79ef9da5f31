# SPDX-License-Identifier: Apache-2.0
"""Models that keep a picture's shape: its own grid, also where the number of tokens is a square."""

import pytest
import tiny_families
import torch
from tokenprune_adapters.transformers.grids import grid_of, square_of

import tokenprune

BOS, IMAGE = tiny_families.BOS, tiny_families.IMAGE


def mistral3(height, width):
    """A tiny Mistral 3, inputs with one picture, and its tokens; a token stands for 8 x 8 pixels."""
    model = tiny_families.model("mistral3")
    n = height * width // 64
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.tensor([[BOS, 5, *[IMAGE] * n, 7, 8]]),
        "pixel_values": torch.randn(1, 3, height, width, generator=draw),
        "image_sizes": torch.tensor([[height, width]]),
    }
    tokens = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[0]
    return model, inputs, tokens


@pytest.mark.parametrize(("height", "width"), [(16, 64), (64, 16), (8, 32), (32, 32), (24, 48)])
def test_the_layout_is_the_pictures(height, width):
    model, inputs, _ = mistral3(height, width)
    with tokenprune.apply(model, method="divprune", keep=2) as handle:
        model(**inputs)
        assert handle.last.images[0].layout.grid == (1, height // 8, width // 8)


def test_pool_averages_neighbours_of_the_pictures_own_grid():
    model, inputs, tokens = mistral3(16, 64)  # 2 x 8 = 16 tokens, as many as 4 x 4
    with tokenprune.apply(model, method="pool", keep=4) as handle:
        model(**inputs)
        image = handle.last.images[0]
    wanted = tokens.view(2, 4, 2, -1).mean((0, 2))  # four cells of 2 x 2
    torch.testing.assert_close(image.selection.features, wanted, atol=1e-5, rtol=1e-5)


def test_the_tokens_are_the_same_as_before_for_methods_that_read_no_grid():
    model, inputs, tokens = mistral3(16, 64)
    with tokenprune.apply(model, method="divprune", keep=4) as handle:
        model(**inputs)
        kept = handle.last.images[0].kept
    alone = tokenprune.method("divprune").select(tokenprune.VisualTokens(tokens), 4)
    assert torch.equal(kept, alone.indices)


@pytest.mark.parametrize(
    ("size", "unit", "n", "grid"),
    [
        ((336, 336), 14, 576, (1, 24, 24)),
        ((252, 448), 28, 144, (1, 9, 16)),  # 144 is a square
        ((30, 60), 14, 8, (1, 2, 4)),  # what is left over gives no token
        ((30, 60), 14, 9, (1, 1, 9)),  # divided in another way
    ],
)
def test_grids_by_size(size, unit, n, grid):
    assert grid_of(size, unit, n).grid == grid_of(torch.tensor(size), unit, n).grid == grid


@pytest.mark.parametrize(("n", "grid"), [(576, (1, 24, 24)), (10, (1, 1, 10)), (1, (1, 1, 1))])
def test_grids_by_number(n, grid):
    assert square_of(n).grid == grid
