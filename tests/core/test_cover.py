# SPDX-License-Identifier: Apache-2.0
"""The budget `cover`: every dropped token is close to a kept one; the picks are those of a fixed budget."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenprune
from tokenprune import (
    Budget,
    BudgetError,
    Cover,
    Cut,
    ExplicitSchedule,
    GeometricSchedule,
    ImageReport,
    IncompatibleError,
    Layout,
    Method,
    PruningReport,
    Selection,
    VisualTokens,
    cover,
)
from tokenprune.batch import select_all, select_each
from tokenprune.cover_rows import ROUNDING, covers
from tokenprune.cut import check_cut, refuse_adaptive
from tokenprune.image_plan import ImagePlan, LeftAlone, plan_image
from tokenprune.stack import stack
from tokenprune.testing import check_scorer, check_selector, example_tokens

DIVERSE = tokenprune.method("divprune")
NESTED = ["coverage", "diverse", "dpp", "hybrid", "logdet", "mmr", "topk"]


@dataclass(frozen=True)
class Listed(tokenprune.Selector):
    """Picks the tokens in the order of their slots."""

    name: ClassVar[str] = "listed"
    batched: ClassVar[bool] = True

    def nested(self, scored):
        return True

    def select(self, tokens, scores, keep):
        slots = torch.arange(keep, device=tokens.features.device)
        return Selection.from_order(slots.expand(*tokens.features.shape[:-2], keep))


LISTED = Method("listed", scorer="uniform", selector=Listed())


def directions(*degrees, layout=None):
    """Tokens that are unit vectors of the plane at these angles."""
    radians = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return VisualTokens(torch.stack([radians.cos(), radians.sin()], 1).float(), layout=layout)


def distance(degrees):
    return 1 - math.cos(math.radians(degrees))


def kept(tokens, budget, method=LISTED):
    chosen = method.select(tokens, budget)
    return chosen.indices.tolist(), chosen.capped


# -- by hand: picks in the order of the slots, distances from angles

FAN = directions(
    0, 90, 10, 40, 100
)  # after 1, 2, 3, 4, 5 picks a dropped one is 100, 40, 30, 10, 0 degrees off


@pytest.mark.parametrize(
    ("degrees", "n"),
    [(180, 1), (101, 1), (99, 2), (41, 2), (39, 3), (31, 3), (29, 4), (11, 4), (9, 5), (0, 5)],
)
def test_picking_goes_on_until_the_image_is_covered(degrees, n):
    assert kept(FAN, cover(distance(degrees))) == (list(range(n)), False)


@pytest.mark.parametrize(
    ("degrees", "counts", "want"),
    [
        (39, {"at_most": 3}, (3, False)),
        (39, {"at_most": 2}, (2, True)),
        (99, {"at_most": 2}, (2, False)),
        (0, {"at_most": 99}, (5, False)),
        (180, {"at_least": 4}, (4, False)),
        (180, {"at_least": 99}, (5, False)),
        (39, {"at_least": 2, "at_most": 2}, (2, True)),
        (180, {"at_least": 2, "at_most": 4}, (2, False)),
    ],
)
def test_the_counts_limit_it(degrees, counts, want):
    slots, capped = kept(FAN, cover(distance(degrees), **counts))
    assert (len(slots), capped) == want


def test_a_plain_wall_keeps_one_token_and_a_page_keeps_many():
    wall, page = torch.full((24, 8), 3.0), torch.eye(24)
    assert kept(VisualTokens(wall), cover(0), DIVERSE) == ([0], False)
    assert kept(VisualTokens(page), cover(0.5), DIVERSE) == (list(range(24)), False)
    assert kept(VisualTokens(page), cover(0.5, at_most=7), DIVERSE) == (list(range(7)), True)
    assert kept(VisualTokens(page), cover(1.0), DIVERSE) == ([0], False)


def test_rows_of_equal_direction_are_duplicates_and_zero_rows_are_far_from_everything():
    rows = torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    assert kept(VisualTokens(rows), cover(0)) == ([0, 1, 2, 3], False)
    assert kept(VisualTokens(rows), cover(0), DIVERSE) == ([0, 2, 3], False)
    assert kept(VisualTokens(rows), cover(0.99), DIVERSE) == ([0, 2, 3], False)
    assert kept(VisualTokens(rows), cover(1.0)) == ([0], False)


def test_a_long_list_of_picks_is_searched_in_blocks():
    rows = torch.cat([torch.eye(200), torch.eye(200)])
    for n in (1, 63, 64, 65, 128, 200):
        slots, capped = kept(VisualTokens(rows), cover(0.5, at_least=n))
        assert (slots, capped) == (list(range(200)), False)
        assert kept(VisualTokens(rows), cover(1, at_least=n))[0] == list(range(n))
    assert kept(VisualTokens(rows), cover(0.5, at_most=199)) == (list(range(199)), True)


def test_half_precision_is_measured_in_float32():
    tokens = VisualTokens(FAN.features.bfloat16())
    want = slow(tokens.features.float().numpy(), range(5), distance(20), 1)
    assert len(kept(tokens, cover(distance(20)))[0]) == want


# -- against a slow reference


def slow(rows, order, radius, at_least):
    """The number of picks that cover the rows, in float64, one distance at a time; None if all do not."""
    rows, order = np.asarray(rows, dtype=np.float64), list(order)

    def apart(a, b):
        lengths = np.linalg.norm(rows[a]) * np.linalg.norm(rows[b])
        return 1.0 if lengths == 0 else 1 - rows[a] @ rows[b] / lengths

    for n in range(at_least, len(order) + 1):
        dropped = [i for i in range(len(rows)) if i not in order[:n]]
        if all(min(apart(i, j) for j in order[:n]) <= radius for i in dropped):
            return n
    return None


def farthest(rows, slots):
    """The largest distance of a dropped row to the nearest kept one, in float64."""
    unit = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = unit / np.where(lengths == 0, 1, lengths)
    nearest = (1 - unit @ unit[slots].T).min(1)
    dropped = np.setdiff1d(np.arange(len(unit)), slots)
    return nearest[dropped].max() if len(dropped) else 0.0


@st.composite
def images(draw):
    """Rows with duplicates, multiples and zero rows."""
    size, width = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    rows = torch.randn(size, width, generator=generator)
    for _ in range(draw(st.integers(0, size))):
        i, j = draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))
        rows[i] = rows[j] * draw(st.sampled_from([0.0, 1.0, 1.0, 0.5, -1.0]))
    return rows


radii = st.floats(0, 2).filter(lambda r: r == 0 or r > 1e-4)


def part(name):
    scorer = "random" if name in ("topk", "dpp") else "uniform"
    return Method(name, scorer=scorer, selector=name)


@settings(max_examples=150, deadline=None)
@given(images(), radii, st.sampled_from(NESTED), st.integers(1, 8), st.none() | st.integers(8, 40))
def test_the_promise_of_every_selector(rows, radius, name, at_least, at_most):
    tokens, method = VisualTokens(rows), part(name)
    chosen = method.select(tokens, cover(radius, at_most, at_least))
    n, most = len(chosen), min(len(rows), at_most or len(rows))
    assert min(at_least, len(rows)) <= n <= most
    if chosen.capped:
        assert n == most and farthest(rows, chosen.indices.numpy()) > radius - 2 * ROUNDING
    else:
        assert farthest(rows, chosen.indices.numpy()) <= radius + 2 * ROUNDING
    fixed = method.select(tokens, n)
    assert torch.equal(chosen.order, fixed.order) and torch.equal(chosen.indices, fixed.indices)
    assert fixed.capped is None


@settings(max_examples=100, deadline=None)
@given(
    images(), st.lists(radii, min_size=2, max_size=6), st.sampled_from(NESTED), st.none() | st.integers(1, 20)
)
def test_a_larger_radius_never_keeps_more(rows, some_radii, name, at_most):
    tokens, method = VisualTokens(rows), part(name)
    counts = [len(method.select(tokens, cover(radius, at_most))) for radius in sorted(some_radii)]
    assert counts == sorted(counts, reverse=True)


@settings(max_examples=80, deadline=None)
@given(images(), st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.3]), st.integers(1, 5))
def test_the_count_is_that_of_the_slow_reference(rows, radius, at_least):
    tokens, at_least = VisualTokens(rows), min(at_least, len(rows))
    order = DIVERSE.select(tokens, len(rows)).order.tolist()
    least, most = (slow(rows, order, radius + margin, at_least) for margin in (2 * ROUNDING, -2 * ROUNDING))
    assert least <= len(DIVERSE.select(tokens, cover(radius, at_least=at_least))) <= most


# -- tiles, newlines, videos

TILES = Layout((1, 1, 7), torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 0, 1]).bool(), 2)


def tiled(*degrees, layout=TILES, newlines="drop", budget, scope="tile"):
    method = Method("tiles", scorer="uniform", selector=Listed(), scope=scope, newlines=newlines)
    return kept(directions(*degrees, layout=layout), budget, method)


@pytest.mark.parametrize(("newlines", "on_top"), [("drop", []), ("keep", [3, 6])])
def test_every_tile_is_covered_on_its_own(newlines, on_top):
    degrees = (0, 90, 90, 45, 90, 90, 135)
    slots, capped = tiled(*degrees, newlines=newlines, budget=cover(0.01))
    assert (slots, capped) == (sorted([0, 1, 4, *on_top]), False)
    assert tiled(*degrees, newlines=newlines, budget=cover(0.01), scope="image")[0] == sorted([0, 1, *on_top])


def test_newlines_that_compete_are_covered_too():
    slots, _ = tiled(0, 0, 0, 45, 0, 0, 0, newlines="compete", budget=cover(0.01))
    assert slots == [0, 1, 2, 3, 4]


def test_counts_are_divided_among_tiles_as_budgets_are():
    page = (0, 60, 120, 0, 0, 60, 0)
    assert tiled(*page, budget=cover(0.01)) == ([0, 1, 2, 4, 5], False)
    assert tiled(*page, budget=cover(0.01, at_most=4)) == ([0, 1, 4, 5], True)
    assert tiled(*page, budget=cover(2, at_least=3)) == ([0, 1, 4], False)
    assert tiled(*page, budget=cover(2)) == ([0, 4], False)
    assert tiled(*page, budget=cover(2, at_most=1)) == ([0], True)  # no row for the other tile
    half = Layout(TILES.grid, TILES.tiles, TILES.newlines, full_tiles=4)
    assert tiled(*page, layout=half, budget=cover(0.01, at_most=8)) == ([0, 1, 4, 5], True)
    assert tiled(*page, layout=half, budget=cover(2, at_least=8)) == ([0, 1, 4, 5], False)


def test_every_slice_of_a_video_keeps_a_row_as_with_a_fixed_budget():
    static = directions(0, 90, 0, 90, 0, 90, layout=Layout((3, 1, 2)))
    slots, capped = kept(static, cover(0.01))
    assert not capped and {slot // 2 for slot in slots} == {0, 1, 2}
    assert slots == LISTED.select(static, len(slots)).indices.tolist()
    assert covers(static.features, torch.tensor(slots), 0.01)
    assert slots == [0, 1, 2, 4]
    assert kept(static, cover(2)) == ([0, 2, 4], False)
    assert kept(static, cover(0.01, at_most=2)) == ([0, 1], False)  # too few for the slices
    moving = directions(0, 10, 90, 100, 170, 180, layout=Layout((3, 1, 2)))
    assert kept(moving, cover(0.01, at_most=3)) == ([0, 2, 4], True)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), radii, st.integers(0, 2**20))
def test_so_it_is_for_any_video(frames, n, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1, 2, (frames * n, 3), generator=generator).float()
    tokens = VisualTokens(rows, layout=Layout((frames, 1, n)))
    chosen = DIVERSE.select(tokens, cover(radius))
    assert not chosen.capped and farthest(rows, chosen.indices.numpy()) <= radius + 2 * ROUNDING
    assert torch.equal(chosen.indices, DIVERSE.select(tokens, len(chosen)).indices)
    assert len(chosen) >= len(DIVERSE.select(tokens, cover(min(2, radius + 0.1))))


# -- several images


def test_images_of_a_stack_are_selected_together_and_keep_their_own_numbers():
    plain, page = torch.ones(16, 16), torch.eye(16)
    tokens = [VisualTokens(rows) for rows in (plain, page, plain.flip(0))]
    budget = cover(0.5, at_most=9, at_least=2)
    want = [DIVERSE.select(image, budget) for image in tokens]
    assert [(len(one), one.capped) for one in want] == [(2, False), (9, True), (2, False)]
    for chosen in (
        select_all(DIVERSE, tokens, [budget] * 3),
        select_each(DIVERSE, stack(tokens), budget, range(3), 3),
        DIVERSE.select_stack(stack(tokens), budget, layer=2),
    ):
        assert [one.order.tolist() for one in chosen] == [one.order.tolist() for one in want]
        assert [one.capped for one in chosen] == [False, True, False]
    mixed = select_all(DIVERSE, tokens, [budget, Budget(3), cover(0.5, at_most=4)])
    assert [(len(one), one.capped) for one in mixed] == [(2, False), (3, None), (1, False)]
    with pytest.raises(
        IncompatibleError, match=r"keep=cover\(0.5, at_most=9, at_least=2\) may keep different"
    ):
        DIVERSE.select(stack(tokens), budget)


# -- the budget


def test_a_budget_with_a_rule():
    budget = cover(0.25, 64, 16)
    assert budget == Budget(rule=Cover(0.25, 64, 16)) == Budget.of(Cover(0.25, 64, 16))
    assert str(budget) == "keep=cover(0.25, at_most=64, at_least=16)"
    assert str(cover(0.2)) == "keep=cover(0.2)" and str(cover(1, at_most=3)) == "keep=cover(1, at_most=3)"
    assert [budget.rows(n) for n in (8, 40, 64, 500)] == [8, 40, 64, 64]
    assert [budget.least(n) for n in (8, 40, 500)] == [8, 16, 16]
    assert [cover(0.25).rows(n) for n in (8, 500)] == [8, 500] and cover(0.25).least(500) == 1
    assert budget.of_share(0.1) == cover(0.25, 6, 2) and budget.of_share(0.001) == cover(0.25, 1, 1)
    assert Budget(20).least(8) == 8 and Budget(None, 0.5).least(8) == 4
    at_least = Budget.of(budget, 0.5)
    assert [at_least.rows(n) for n in (100, 500)] == [64, 250] and at_least.least(101) == 51
    numpy_numbers = cover(np.float32(0.5), np.int64(5), np.int32(2))
    assert numpy_numbers == cover(0.5, 5, 2) and type(numpy_numbers.rule.at_most) is int


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-0.1,), r"radius must lie in \[0, 2\], the range of cosine distances, got -0.1"),
        ((2.1,), r"radius must lie in \[0, 2\]"),
        ((math.nan,), r"radius must lie in \[0, 2\].*got nan"),
        ((math.inf,), r"radius must lie in \[0, 2\].*got inf"),
        ((True,), "radius must be a number, a cosine distance in .*, got True"),
        (("0.2",), "radius must be a number, a cosine distance in .*, got '0.2'"),
        ((0.2, 0), "at_most must be at least 1 .every image keeps a token., got 0"),
        ((0.2, 0.5), "at_most must be an integer, a number of tokens, got 0.5"),
        ((0.2, True), "at_most must be an integer"),
        ((0.2, 4, 0), "at_least must be at least 1"),
        ((0.2, 4, None), "at_least must be an integer, a number of tokens, got None"),
        ((0.2, 4, 5), "at_least=5 is more than at_most=4"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(BudgetError, match=f"cover: {words}"):
        cover(*arguments)


def test_a_rule_stands_alone():
    for other in ({"keep": 4}, {"keep_ratio": 0.5}):
        with pytest.raises(BudgetError, match=r"cover\(0.2\) says how many tokens are kept; give no keep"):
            Budget(**other, rule=Cover(0.2))
    with pytest.raises(BudgetError, match="rule must be a tokenprune.Cover, got 0.2"):
        Budget(rule=0.2)
    with pytest.raises(BudgetError, match=r"either keep=cover\(0.2\) or keep_ratio=0.5, not both"):
        tokenprune.arguments.read_budgets(cover(0.2), 0.5, None, None, 1)
    with pytest.raises(BudgetError, match="a schedule {layer: rows} sets how many rows are kept"):
        tokenprune.arguments.read_budgets(cover(0.2), None, {2: 5}, None, 1)
    read = tokenprune.arguments.read_budgets([cover(0.2), 64, Cover(0.3), 32], None, None, None, 4)
    assert read == [cover(0.2), Budget(64), cover(0.3), Budget(32)]
    with pytest.raises(BudgetError, match="must not increase"):
        tokenprune.arguments.read_budgets([32, cover(0.2), 64], None, None, None, 3)


def test_how_many_is_not_known_before():
    assert DIVERSE.n_keep(Layout((1, 4, 4)), cover(0.2)) is None
    assert DIVERSE.n_keep(Layout((1, 4, 4)), cover(0.2, at_most=3, at_least=3)) is None
    assert Cut(DIVERSE, cover(0.2)).adaptive and not Cut(DIVERSE, Budget(3)).adaptive
    with pytest.raises(IncompatibleError, match=r"keep=cover\(0.2\) keeps depends on the picture, but why"):
        refuse_adaptive(DIVERSE, "why", cover(0.2))
    refuse_adaptive(DIVERSE, "why", Budget(3))


def test_the_plan_of_an_image_holds_the_most_rows():
    inside = Method(
        "inside", selector="diverse", stage="decoder", schedule=GeometricSchedule((2,), depth=None)
    )
    assert plan_image(Cut(DIVERSE, cover(0.2, 16)), 64) == ImagePlan({0: 16})
    assert plan_image(Cut(DIVERSE, cover(0.2)), 64) == ImagePlan({0: 64})
    assert plan_image(Cut(inside, cover(0.2, 16)), 64, 8) == ImagePlan({2: 16})
    assert plan_image(Cut(inside, cover(0.2)), 64, 8) == ImagePlan({2: 64})
    assert plan_image(Cut(DIVERSE, cover(0.2), 65), 64).left_alone is LeftAlone.TOO_FEW_TOKENS


# -- what is refused


@pytest.mark.parametrize("selector", sorted(set(tokenprune.list_selectors()) - set(NESTED)))
def test_selectors_that_do_not_pick_one_by_one_are_refused(selector):
    able = ", ".join(name for name in NESTED if name != "topk")
    words = f"whatever the budget, and '{selector}' without scores does not.*: {able}."
    with pytest.raises(IncompatibleError, match=words):
        Method("m", scorer="uniform", selector=selector).check_rule(Cover(0.2))


def test_so_are_evenly_spaced_tokens_shares_of_the_budget_and_reducers():
    with pytest.raises(IncompatibleError, match="'topk' without scores does not"):
        tokenprune.method("stride").select(example_tokens(), cover(0.2))
    with pytest.raises(IncompatibleError, match="'topk' without scores does not"):
        tokenprune.method("stride").select_stack(stack([example_tokens()] * 2), cover(0.2))
    half = Method("m", scorer="random", selector="hybrid")
    able = ", ".join(name for name in NESTED if name != "hybrid")
    with pytest.raises(IncompatibleError, match=f"'hybrid' with scores .*: {able}. Choose"):
        half.check_rule(Cover(0.2))
    for fraction in (0, 1):
        half.with_options(fraction=float(fraction)).check_rule(Cover(0.2))
    for reducer in tokenprune.list_reducers():
        merging = Method("m", scorer="uniform", selector="diverse", reducer=reducer)
        with pytest.raises(IncompatibleError, match=f"but the reducer '{reducer}' makes a number"):
            merging.select(example_tokens(), cover(0.2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"schedule": GeometricSchedule((2, 4), depth=None)},
            "rows left after each of 2 cuts.*single layer=",
        ),
        ({"schedule": ExplicitSchedule((2,), (9,))}, "its schedule says how many rows are left"),
        ({"budget": "average"}, "budget='average' counts something else.*leave budget= out"),
    ],
)
def test_so_are_schedules_that_set_numbers(change, words):
    once = GeometricSchedule((2,), depth=None)
    method = Method("m", scorer="random", selector="topk", stage="decoder", schedule=once)
    check_cut(Cut(method, cover(0.2)), "a", {"decoder": frozenset()}, ("contiguous",))
    with pytest.raises(IncompatibleError, match=f"method 'm' needs a number: .*{words}"):
        check_cut(
            Cut(method.with_options(**change), cover(0.2)), "a", {"decoder": frozenset()}, ("contiguous",)
        )


# -- reports and contracts


def test_the_report_says_where_the_limit_stopped_it():
    layout = Layout((1, 1, 9))
    some = [ImageReport(0, layout, 9, 4, capped=capped) for capped in (True, False, None, True)]
    assert "16 of 36 visual tokens kept in 4 image(s), 2 of them capped by at_most, key" in str(
        PruningReport(tuple(some))
    )
    assert "capped" not in str(PruningReport(tuple(some[1:3])))


@dataclass(frozen=True)
class Backwards(tokenprune.Selector):
    """Picks the first tokens, the last of them first."""

    name: ClassVar[str] = "backwards"
    says: object = True

    def nested(self, scored):
        return self.says

    def select(self, tokens, scores, keep):
        return Selection.from_order(torch.arange(keep).flip(0))


@dataclass(frozen=True)
class Orderless(tokenprune.Selector):
    """Says that it picks one by one, and does not say in which order."""

    name: ClassVar[str] = "orderless"

    def nested(self, scored):
        return True

    def select(self, tokens, scores, keep):
        return tokenprune.Selection(torch.arange(keep))


def test_picks_without_an_order_are_refused():
    method = tokenprune.Method("broken", selector=Orderless())
    with pytest.raises(tokenprune.PluginError, match="returned no `order`; return Selection.from_order"):
        method.select(example_tokens(), tokenprune.cover(0.5))


def test_the_contract_check_compares_the_picks():
    for name in tokenprune.list_selectors():
        check_selector(tokenprune.selector(name))
    check_selector(Listed())
    check_selector(Backwards(False))
    words = "selector 'backwards' says `nested`, but with scores `order` for 1 tokens does not begin that for"
    with pytest.raises(AssertionError, match=words):
        check_selector(Backwards())
    with pytest.raises(AssertionError, match="must return True or False from `nested`, not 'yes'"):
        check_selector(Backwards("yes"))


def test_and_that_a_scorer_says_whether_it_gives_scores():
    @dataclass(frozen=True)
    class Shy(tokenprune.Scorer):
        name: ClassVar[str] = "shy"
        gives_scores: ClassVar[bool] = False

        def score(self, tokens):
            return torch.ones(len(tokens))

    assert not tokenprune.scorer("uniform").gives_scores
    with pytest.raises(AssertionError, match="'shy' says that it gives no scores, but returned some"):
        check_scorer(Shy())
