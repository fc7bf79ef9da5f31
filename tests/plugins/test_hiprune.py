# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import golden, hiprune
from tokenprune_plugins.hiprune import LLAVA, QWEN, HiPruneSelector, neighbours

import tokenprune
from tokenprune.testing import check_method, check_selector

FILES = sorted(path.stem for path in golden.FOLDER.glob("hiprune_*.npz"))


def tokens_of(shallow, deep, grid):
    """Tokens of a tower of two blocks; features are not read."""
    received = {0: shallow, 1: deep}
    signals = {"tower_received": received.__getitem__, "tower_depth": 2}
    shape = (*deep.shape, 3)
    return tokenprune.VisualTokens(torch.zeros(shape), signals, tokenprune.Layout(grid))


def kept(shallow, deep, grid, keep, **options):
    method = tokenprune.method("hiprune", shallow=0, **options)
    return method.select(tokens_of(torch.as_tensor(shallow), torch.as_tensor(deep), grid), keep)


def numbers(vectors, *names):
    return (vectors[name].item() for name in names)


def test_the_golden_files_are_there():
    assert {"hiprune_qwen_n64_r0.334", "hiprune_qwen_n64_r0.6"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_golden_picks(name):
    """Of LLaVA, a stack of views; of Qwen2.5-VL, whose code may pick anchors and buffers again."""
    vectors = golden.load(name)
    shallow, deep = vectors["received_shallow"], vectors["received_deep"]
    alpha = vectors["alpha"].item()
    if name.startswith("hiprune_llava"):
        keep, width = numbers(vectors, "T_per_view", "width")
        chosen = kept(shallow, deep, (1, deep.shape[1] // width, width), keep, alpha=alpha)
        assert chosen.indices.tolist() == vectors["kept_sorted"].tolist()
        return
    height, width, keep = numbers(vectors, "grid_h", "grid_w", "T")
    chosen = kept(shallow, deep, (1, height, width), keep, alpha=alpha)
    assert chosen.indices.tolist() == vectors["kept_sorted_masked"].tolist()
    first = vectors["anchors_and_buffers"].tolist()
    assert sorted(chosen.order[: len(first)].tolist()) == first
    official = kept(shallow, deep, (1, height, width), keep, alpha=alpha, official=True)
    assert official.indices.tolist() == vectors["kept_sorted"].tolist()
    assert len(official) == vectors["n_kept"].item()


@pytest.mark.parametrize("name", FILES)
def test_golden_attention(name):
    """What a token receives: means with LLaVA's class token, sums over patches in window order on Qwen."""
    vectors = golden.load(name)
    for depth in ("shallow", "deep"):
        if f"q_{depth}" not in vectors:
            continue
        query, key, want = (vectors[f"{which}_{depth}"] for which in ("q", "k", "received"))
        if name.startswith("hiprune_llava"):
            pairs = zip(query, key, strict=True)
            got = torch.stack([torch.from_numpy(hiprune.received(q, k, with_class=True)) for q, k in pairs])
        else:
            of_patches = torch.from_numpy(hiprune.received(query, key, with_class=False)) * query.shape[1]
            got = of_patches.view(-1, 4).mean(1)[vectors["reverse_indices"]]
        torch.testing.assert_close(got, want.double(), atol=1e-6, rtol=1e-4)


# -- by hand: a grid of 3 x 4, and one anchor of a budget of 5


def one_high(n, slot, high=1.0):
    values = torch.linspace(0.5, 0.4, n)
    values[slot] = high
    return values


DEEP = torch.linspace(0.1, 0.9, 12)  # the last tokens receive most


def test_an_anchor_inside_the_grid_has_four_buffers_and_the_rest_is_deep():
    chosen = kept(one_high(12, 5), DEEP, (1, 3, 4), 7, alpha=0.7)
    assert chosen.order.tolist() == [5, 4, 6, 1, 9, 11, 10]


@pytest.mark.parametrize(
    ("anchor", "counted_on", "inside"),
    [
        (0, {0, 1, 4}, {0, 1, 4}),  # left of and above the first token is the first
        (3, {3, 2, 4, 0, 7}, {3, 2, 7}),  # right of it is the next row's first, above the image's first
        (8, {8, 7, 9, 4, 11}, {8, 9, 4}),
        (11, {11, 10, 7}, {11, 10, 7}),
    ],
)
def test_neighbours_over_the_edge(anchor, counted_on, inside):
    slots = torch.tensor([anchor])
    assert set(neighbours(slots, (1, 3, 4), False).flatten().tolist()) | {anchor} == counted_on
    assert set(neighbours(slots, (1, 3, 4), True).flatten().tolist()) | {anchor} == inside


def test_inside_a_video_buffers_are_of_the_same_frame():
    assert set(neighbours(torch.tensor([4]), (2, 2, 2), True).flatten().tolist()) == {4, 5, 6}
    assert set(neighbours(torch.tensor([4]), (2, 2, 2), False).flatten().tolist()) == {3, 5, 2, 6}


def test_in_a_single_row_nothing_is_above_or_below():
    chosen = kept(one_high(12, 5), DEEP, (1, 1, 12), 5, alpha=1.0)
    assert chosen.order.tolist() == [5, 4, 6, 11, 10]


def test_more_anchors_and_buffers_than_the_budget_are_cut_off_in_their_order():
    """Anchors by attention, then the tokens left of them, right of them, above and below."""
    shallow = one_high(12, 5)
    assert kept(shallow, DEEP, (1, 3, 4), 3, alpha=1.0).order.tolist() == [5, 4, 6]
    assert kept(shallow, DEEP, (1, 3, 4), 3, alpha=1.0, official=True).indices.tolist() == [1, 4, 5]


@pytest.mark.parametrize(
    ("keep", "n_anchors"), [(192, 4), (128, 3), (64, 1), (32, 1), (26, 1), (25, 0), (75, 2), (125, 2)]
)
def test_the_number_of_anchors_is_rounded_half_to_even(keep, n_anchors):
    shallow = torch.arange(576.0).flip(0)[torch.arange(576) * 101 % 576]  # anchors lie apart
    deep = -shallow
    chosen = kept(shallow, deep, (1, 24, 24), keep)
    anchors = shallow.sort(descending=True, stable=True).indices[:n_anchors].tolist()
    assert chosen.order[:n_anchors].tolist() == anchors
    assert len(chosen.indices.unique()) == keep
    by_hand = hiprune.hiprune(shallow, deep, keep, 0.1, 24)
    assert chosen.indices.tolist() == by_hand


def test_without_anchors_the_deepest_scores_are_kept():
    assert kept(one_high(12, 5), DEEP, (1, 3, 4), 4, alpha=0.0).indices.tolist() == [8, 9, 10, 11]


def test_high_anchors_are_picked_again_in_the_official_code_only():
    """Sums have mean 1: the anchor's is 6.9, and stays the highest when 1 is taken from it."""
    deep = torch.full((12,), 0.05)
    deep[5] = 0.8
    shallow = one_high(12, 5)
    ours = kept(shallow, deep, (1, 3, 4), 6, alpha=0.8)
    assert ours.indices.tolist() == [0, 1, 4, 5, 6, 9]
    official = kept(shallow, deep, (1, 3, 4), 6, alpha=0.8, official=True)
    assert official.indices.tolist() == [1, 4, 5, 6, 9]
    assert official.indices.tolist() == hiprune.hiprune_qwen(shallow, deep / deep.mean(), 6, 0.8, 4)


# -- properties

GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda grid: grid[0] * grid[1] > 1)


def drawn(seed, *shape):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=draw), torch.rand(*shape, generator=draw)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    grid=GRIDS,
    alpha=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    inside=st.booleans(),
    data=st.data(),
)
def test_equals_the_slow_reference(seed, grid, alpha, inside, data):
    height, width = grid
    keep = data.draw(st.integers(1, height * width))
    shallow, deep = drawn(seed, height * width)
    chosen = kept(shallow, deep, (1, *grid), keep, alpha=alpha, inside=inside)
    assert len(chosen.indices.unique()) == keep
    want = hiprune.hiprune(shallow, deep, keep, alpha, width, inside)
    anchors, buffers = hiprune.first_step(shallow, keep, alpha, width, inside)
    if want is None:  # more than the budget: only those
        assert set(chosen.indices.tolist()) < set(anchors + buffers)
    else:
        assert chosen.indices.tolist() == want
    assert chosen.order[: len(anchors)].tolist() == anchors


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), keep=st.integers(12, 40), alpha=st.sampled_from([0.1, 0.5, 0.8]))
def test_official_equals_its_slow_reference(seed, keep, alpha):
    shallow, deep = drawn(seed, 48)
    deep = deep**6  # some far above the mean
    chosen = kept(shallow, deep, (1, 6, 8), keep, alpha=alpha, official=True)
    want = hiprune.hiprune_qwen(shallow, deep / deep.double().mean(), keep, alpha, 8)
    assert chosen.indices.tolist() == want
    assert len(chosen) <= keep


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), keep=st.integers(1, 20), inside=st.booleans())
def test_a_stack_is_chosen_from_like_its_images(seed, keep, inside):
    shallow, deep = drawn(seed, 3, 20)
    options = {"alpha": 0.7, "inside": inside}
    together = kept(shallow, deep, (1, 4, 5), keep, **options)
    for number in range(3):
        alone = kept(shallow[number], deep[number], (1, 4, 5), keep, **options)
        assert torch.equal(together.order[number], alone.order)


# -- the method and its options


@pytest.mark.parametrize(
    ("name", "depth", "shallow"),
    [
        ("hiprune", 23, 8),  # LLaVA-1.5: 23 of CLIP's 24 blocks are projected
        ("hiprune", 24, 8),
        ("hiprune", 32, 11),
        ("hiprune-qwen", 32, 15),
        ("hiprune", 2, 1),
        ("hiprune", 1, 0),
        ("hiprune-qwen", 2, 1),
        ("hiprune-qwen", 1, 0),
    ],
)
def test_blocks_that_are_read(name, depth, shallow):
    method = tokenprune.method(name)
    scorer, selector = method.parts
    assert selector.tower_blocks(depth) == (shallow,)
    assert scorer.tower_blocks(depth) == (depth - 1,)
    changed = method.with_options(shallow=0, block=0)
    assert [part.tower_blocks(depth) for part in changed.parts] == [(0,), (0,)]
    assert (LLAVA, QWEN) == (8 / 23, 15 / 32)


def test_the_last_block_is_the_deepest_whatever_the_share():
    assert HiPruneSelector(shallow_at=0.99).tower_blocks(10) == (9,)


def test_the_budget_is_divided_among_the_views_there_are():
    tiles = torch.arange(3).repeat_interleave(16)
    layout = tokenprune.Layout((1, 1, 48), tiles=tiles, full_tiles=5, tile_grids=((4, 4),) * 3)
    shallow, deep = drawn(0, 48)
    received = {0: shallow, 1: deep}
    signals = {"tower_received": received.__getitem__, "tower_depth": 2}
    tokens = tokenprune.VisualTokens(torch.zeros(48, 3), signals, layout)
    chosen = tokenprune.method("hiprune", shallow=0, alpha=0.5).select(tokens, 30)
    want = []
    for start in (0, 16, 32):
        own = slice(start, start + 16)
        want += [start + slot for slot in hiprune.hiprune(shallow[own], deep[own], 10, 0.5, 4)]
    assert chosen.indices.tolist() == want


def test_without_scores_registers_are_those_of_the_block_of_the_anchors():
    shallow, deep = drawn(3, 20)
    selector = tokenprune.selector("hiprune", shallow=0, alpha=0.5)
    chosen = selector.select(tokens_of(shallow, deep, (1, 4, 5)), None, 12)
    assert chosen.indices.tolist() == hiprune.hiprune(shallow, shallow, 12, 0.5, 5)


@pytest.mark.parametrize("options", [{}, {"official": True}, {"inside": True}, {"alpha": 1.0}])
def test_the_contract_holds_with_each_option(options):
    check_selector(tokenprune.selector("hiprune", **options))
    check_method(tokenprune.method("hiprune", **options))


def test_only_the_official_choice_is_adaptive():
    assert not tokenprune.method("hiprune").adaptive
    assert tokenprune.method("hiprune", official=True).adaptive
    assert tokenprune.selector("hiprune").stacks and not tokenprune.selector("hiprune", official=True).stacks


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"alpha": -0.1}, r"alpha must be in \[0, 1\], got -0.1"),
        ({"shallow_at": 1.0}, "shallow_at must be at least 0 and below 1, got 1.0"),
        ({"shallow": "8"}, "shallow must be an integer or None, got '8'"),
    ],
)
def test_options_are_refused(options, sentence):
    with pytest.raises(tokenprune.OptionError, match=sentence):
        tokenprune.selector("hiprune", **options)
