# SPDX-License-Identifier: Apache-2.0
"""Visual tokens: signals computed once and only when asked for, functions handed over as they are."""

import pytest
import torch
from torch import nn

from tokenprune import IncompatibleError, Layout, Projector, VisualTokens
from tokenprune.signals import SIGNALS
from tokenprune.testing import example_tokens
from tokenprune.testing.examples import all_equal


def counted(value):
    calls = []

    def compute():
        calls.append(1)
        return value

    return compute, calls


def test_an_image_and_a_stack():
    image, stack = VisualTokens(torch.zeros(6, 4)), VisualTokens(torch.zeros(2, 6, 4))
    assert (len(image), image.is_batch) == (6, False)
    assert (len(stack), stack.is_batch) == (6, True)


@pytest.mark.parametrize("features", [torch.zeros(4), torch.zeros(1, 2, 3, 4), torch.tensor(1.0)])
def test_other_shapes_are_refused(features):
    with pytest.raises(IncompatibleError, match=r"features must be a tensor \(N, D\) or \(B, N, D\), got \("):
        VisualTokens(features)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(IncompatibleError, match="features must be a tensor .*, got list"):
        VisualTokens([[1.0, 2.0]])


def test_a_signal_is_computed_on_first_use_and_once():
    compute, calls = counted(torch.ones(6))
    tokens = VisualTokens(torch.zeros(6, 4), {"received_attention": compute})
    assert calls == []
    assert tokens.signal("received_attention") is tokens.signal("received_attention")
    assert calls == [1]


def test_tensors_and_unknown_signals_pass_through():
    attention, own = torch.ones(2, 6), {"anything": 1}
    tokens = VisualTokens(torch.zeros(6, 4), {"cls_attention": attention, "my_signal": own})
    assert tokens.signal("cls_attention") is attention
    assert tokens.signal("my_signal") is own


def test_function_signals_are_handed_over_uncalled():
    def keys(layer):
        return torch.full((2, 6, 4), float(layer))

    tokens = VisualTokens(torch.zeros(6, 4), {"keys": keys})
    assert tokens.signal("keys") is keys


def test_the_projector_is_wrapped_once():
    tokens = VisualTokens(torch.zeros(6, 4), {"projector": nn.Linear(3, 4)})
    assert isinstance(tokens.projector, Projector)
    assert tokens.projector is tokens.signal("projector")


def test_a_missing_signal_says_what_there_is_and_how_to_supply_it():
    tokens = VisualTokens(torch.zeros(6, 4), {"key_metric": torch.zeros(6, 2)})
    with pytest.raises(IncompatibleError) as error:
        tokens.signal("cls_attention")
    said = str(error.value)
    assert "'cls_attention' is required, but these visual tokens provide: key_metric." in said
    assert "VisualTokens(features, signals={'cls_attention': ...})" in said


def test_the_given_mapping_is_not_kept():
    given = {"key_metric": torch.zeros(6, 2)}
    tokens = VisualTokens(torch.zeros(6, 4), given)
    given.clear()
    assert tokens.provides == {"key_metric"}


@pytest.mark.parametrize(
    ("layout", "n"),
    [
        (Layout((1, 2, 3)), 6),
        (Layout((4, 2, 3)), 24),
        (Layout((1, 4, 4), tiles=torch.zeros(18, dtype=torch.long)), 18),
        (Layout((1, 4, 4), newlines=torch.zeros(20, dtype=torch.bool)), 20),
    ],
)
def test_a_layout_counts_its_tokens(layout, n):
    assert len(layout) == n
    assert VisualTokens(torch.zeros(n, 4), layout=layout).layout is layout


def test_a_tile_keeps_its_own_grid_where_it_is_whole():
    tiles = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 1, 1, 2, 2, 2])
    layout = Layout((1, 1, 14), tiles, tile_grids=((2, 2), (2, 2), (2, 3)))
    tokens = VisualTokens(torch.zeros(14, 4), layout=layout)
    slots = [(tiles == tile).nonzero().squeeze(1) for tile in range(3)]
    grids = [tokens.part(own, tile).layout.grid for tile, own in enumerate(slots)]
    assert grids == [(1, 2, 2), (1, 2, 2), (1, 2, 3)]
    assert tokens.part(slots[2][:5], 2).layout.grid == (1, 1, 5)  # some of it: a single row
    assert tokens.part(slots[2]).layout.grid == (1, 1, 6)
    unknown = VisualTokens(torch.zeros(14, 4), layout=Layout((1, 1, 14), tiles))
    assert unknown.part(slots[2], 2).layout.grid == (1, 1, 6)


def test_tiles_keep_their_grids_among_all_patches_and_lose_them_among_some():
    tiles = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    newlines = torch.tensor([0, 0, 0, 0, 0, 0, 1, 0, 0, 1]).bool()
    grids = ((2, 2), (1, 2), (2, 1))
    layout = Layout((1, 1, 10), tiles, newlines, 5, grids)
    everything, patches = torch.arange(10), (~newlines).nonzero().squeeze(1)
    for slots in (everything, patches, patches.flip(0)):
        some = layout.among(slots)
        assert (some.tile_grids, some.full_tiles, len(some)) == (grids, 5, len(slots))
        assert torch.equal(some.tiles, tiles[slots]) and torch.equal(some.newlines, newlines[slots])
    assert layout.among(everything[1:]).tile_grids == ()
    assert layout.among(patches[:-1]).tile_grids == ()
    assert Layout((1, 1, 10), tiles).among(everything).tile_grids == ()
    assert Layout((1, 2, 5)).among(everything) == Layout((1, 1, 10))


def test_functions_of_a_part_answer_about_its_tokens():
    tokens, slots = example_tokens(12), torch.tensor([7, 2, 3])
    part = tokens.part(slots)
    rows = tokens.signal("attention_rows")(3, [0, 4])
    assert torch.equal(part.signal("attention_rows")(3, [0, 4]), rows[:, :, slots])
    assert torch.equal(part.signal("keys")(3), tokens.signal("keys")(3)[:, slots])
    assert torch.equal(part.signal("hidden")(layer=3), tokens.signal("hidden")(3)[slots])
    assert torch.equal(part.signal("text_keys")(3), tokens.signal("text_keys")(3))


def test_a_layout_of_another_number_of_tokens_is_refused():
    with pytest.raises(IncompatibleError, match="the layout has 6 tokens, but there are features of 7"):
        VisualTokens(torch.zeros(7, 4), layout=Layout((1, 2, 3)))


def test_without_a_layout_tokens_stand_in_one_row():
    assert VisualTokens(torch.zeros(2, 6, 4)).layout == Layout((1, 1, 6))


def test_tokens_say_what_they_are():
    tokens = VisualTokens(
        torch.zeros(6, 4), {"keys": len, "cls_hidden": torch.zeros(1, 3)}, Layout((1, 2, 3))
    )
    assert repr(tokens) == "VisualTokens(6, 4; grid=(1, 2, 3); signals=['cls_hidden', 'keys'])"


def test_example_tokens_carry_every_known_signal_in_its_shape():
    tokens = example_tokens(12)
    assert tokens.provides == set(SIGNALS)
    for name, signal in SIGNALS.items():
        if signal.token_axis is not None:
            assert tokens.signal(name).shape[signal.token_axis] == 12
    assert tokens.signal("attention_rows")(3, [0, 4]).shape == (2, 2, 12)
    assert tokens.signal("keys")(3).shape == (2, 12, 8)
    assert tokens.signal("hidden")(3).shape == (12, 16)
    assert tokens.projector(tokens.signal("pre_features")).allclose(tokens.features)


def test_example_images_differ_but_come_from_one_model():
    one, other = example_tokens(seed=1), example_tokens(seed=2)
    assert not torch.equal(one.features, other.features)
    rows = torch.ones(2, 12)
    assert torch.equal(one.projector(rows), other.projector(rows))
    assert torch.equal(example_tokens(seed=1).features, one.features)


def test_equal_tokens_are_equal_in_every_signal():
    tokens = all_equal(example_tokens())
    assert len(tokens.features.unique(dim=0)) == 1
    assert len(tokens.signal("pre_features").unique(dim=0)) == 1
    assert len(tokens.signal("cls_attention").unique(dim=1).T) == 1
