# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_cases import Case
from reference import golden
from reference import spectral as slow
from tokenprune_plugins.clse import ClseRatioSchedule, ClseSchedule

import tokenprune
from tokenprune import Layout
from tokenprune.schedule import mean_rows

GOLDEN = golden.names("clse_n*_k*", "clse_n60_k12", "clse_n64_k20")
PUBLISHED = {192: (330, 210, 62), 128: (220, 140, 41), 64: (110, 70, 20)}
QWEN = {0.334: (0.57, 0.36, 0.098), 0.223: (0.38, 0.24, 0.066), 0.112: (0.19, 0.12, 0.034)}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_picks(name):
    vectors = golden.load(name)
    signals = {
        "input_features": vectors["z_ref"],
        "attention_rows": lambda layer, rows: vectors["attn_last"][:, None],
    }
    tokens = tokenprune.VisualTokens(vectors["z_cur"], signals, Layout((1, *vectors["grid"].tolist())))
    method = tokenprune.method("clse", cutoff=float(vectors["cutoff"]), temperature=float(vectors["temp"]))
    chosen, wanted = method.select(tokens, int(vectors["keep"]), layer=1), vectors["kept_sorted"]
    if float(vectors["margin_f64"]) > 1e-6:
        assert chosen.indices.tolist() == wanted.tolist()
    else:  # a tie up to rounding: at most the last pick differs
        assert len(set(chosen.indices.tolist()) ^ set(wanted.tolist())) <= 2


def test_the_second_cut_is_by_attention_alone():
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    signals = {
        "input_features": torch.randn(16, 3),
        "attention_rows": lambda layer, rows: attention[:, None],
    }
    tokens = tokenprune.VisualTokens(torch.randn(4, 3), signals)
    chosen = tokenprune.method("clse").select(tokens, 2, layer=11)
    assert chosen.order.tolist() == [1, 3]


def test_the_choices_of_the_official_code():
    method = tokenprune.method("clse")
    assert (method.stage, method.positions, method.newlines) == ("decoder", "original", "compete")
    assert (method.parts[0].cutoff, method.parts[0].temperature) == (0.1, 0.1)


@pytest.mark.parametrize("budget", PUBLISHED)
def test_published_budgets_leave_the_published_rows(budget):
    cuts = tokenprune.method("clse").schedule.cuts(budget, 576, 32, "paper")
    assert cuts == dict(zip((1, 11, 21), PUBLISHED[budget], strict=True))


@pytest.mark.parametrize(("nominal", "mean"), [(192, 208.1), (128, 144.6), (64, 81.1)])
def test_what_a_nominal_budget_is_on_average(nominal, mean):
    """Mean rows of the 32 layers, the first of which sees all tokens."""
    schedule = tokenprune.method("clse").schedule
    cuts = schedule.cuts(nominal, 576, 32, "paper")
    assert mean_rows(cuts, 576, 32) == pytest.approx(mean, abs=0.05)
    assert mean_rows(schedule.cuts(round(mean), 576, 32, "average"), 576, 32) == pytest.approx(mean, abs=1)


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [(28, (1, 10, 19)), (32, (1, 11, 21)), (36, (1, 13, 24)), (40, (1, 14, 26)), (4, (1, 2, 3))],
)
def test_layers_by_depth(n_layers, layers):
    assert ClseSchedule().boundaries(n_layers) == ClseRatioSchedule().boundaries(n_layers) == layers


def test_layers_that_are_given_stay():
    for n_layers in (28, 32, 36, 40):
        assert ClseSchedule().at(1, 11, 21).boundaries(n_layers) == (1, 11, 21)
        assert ClseSchedule().at(2, 5, 9).boundaries(n_layers) == (2, 5, 9)
    assert ClseSchedule(layers=(2, 8, 16), depth=32).boundaries(36) == (2, 9, 18)


@given(n=st.integers(4, 3000), data=st.data(), schedule=st.sampled_from([ClseSchedule, ClseRatioSchedule]))
def test_rows_mean_rows_after_the_last_cut(n, data, schedule):
    keep = data.draw(st.integers(1, n - 1))
    rows = list(schedule().cuts(keep, n, 32, "rows").values())
    assert rows[-1] == keep and rows == sorted(rows, reverse=True) and rows[0] <= n


def test_lists_are_scaled_to_the_image():
    # 144 = 576 / 4 at nominal 16: 110 / 4 = 27.5 -> 28, 70 / 4 = 17.5 -> 18, 20 / 4 = 5
    assert ClseSchedule().cuts(16, 144, 32, "paper") == {1: 28, 11: 18, 21: 5}


def test_budgets_between_the_lists_are_interpolated():
    # halfway between 64 and 128: (110 + 220) / 2, (70 + 140) / 2, (20 + 41) / 2
    assert ClseSchedule().cuts(96, 576, 32, "paper") == {1: 165, 11: 105, 21: 30}
    assert ClseSchedule().cuts(32, 576, 32, "paper") == {1: 55, 11: 35, 21: 10}
    # halfway between 192 and 576
    assert ClseSchedule().cuts(384, 576, 32, "paper") == {1: 453, 11: 393, 21: 319}


@pytest.mark.parametrize("ratio", QWEN)
@pytest.mark.parametrize("n", [64, 100, 576, 1156, 2000])
def test_shares_of_qwen_are_rounded_down(ratio, n):
    from fractions import Fraction

    nominal = tokenprune.Budget(keep_ratio=ratio).rows(n)
    cuts = ClseRatioSchedule().cuts(nominal, n, 28, "paper")
    wanted = [int(Fraction(str(share)) * n) for share in QWEN[ratio]]
    assert cuts == dict(zip((1, 10, 19), wanted, strict=True))


def test_between_the_shares_rows_are_interpolated():
    # 0.112 and 0.223 of 1000 are 112 and 223; 167.5 is halfway, 167 just below
    assert ClseRatioSchedule().rows_at(167, 1000) == (284, 179, 49)
    assert ClseRatioSchedule().rows_at(56, 1000) == (95, 60, 17)


def test_the_smallest_images_keep_a_row_at_each_cut():
    for n in range(2, 12):
        for level in range(1, n):
            for schedule in (ClseSchedule(), ClseRatioSchedule()):
                assert min(schedule.cuts(level, n, 32, "paper").values(), default=1) >= 1


@pytest.mark.parametrize("layers", [(7,), (3, 7), (2, 3, 7, 16), ()])
@pytest.mark.parametrize("schedule", [ClseSchedule, ClseRatioSchedule])
def test_lists_for_three_cuts_take_three_layers(layers, schedule):
    with pytest.raises(tokenprune.OptionError, match=r"CLSE's lists have rows for 3 cuts, .* pass 3 layers"):
        schedule().at(*layers).rows_at(64, 576)


def test_the_second_schedule_is_passed_to_a_method():
    method = tokenprune.method("clse", schedule=ClseRatioSchedule(), budget="paper")
    assert method.schedule.cuts(192, 576, 28, method.budget) == {1: 328, 10: 207, 19: 56}


def test_the_second_schedule_on_a_model():
    case = Case("qwen")
    inputs = case.inputs((3, ("I", 6, 4), 5))[0]
    options = {"schedule": ClseRatioSchedule(), "budget": "paper", "keep_ratio": 0.334}
    with tokenprune.apply(case.model, method="clse", **options) as handle:
        case.model(**inputs)
    assert handle.last.images[0].cuts == {1: 13, 2: 8, 3: 2}  # of 24


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_the_first_cut_of_a_model_equals_the_slow_reference(name):
    case, seen = Case(name), []

    class Seen(tokenprune.Scorer):
        name = "seen"
        needs = frozenset({"input_features", "attention_rows"})

        def score(self, tokens):
            rows = torch.tensor([-1])
            seen.append(
                (tokens.signal("input_features"), tokens.features, tokens.signal("attention_rows")(0, rows))
            )

    method = tokenprune.Method(
        name="m", scorer=Seen(), stage="decoder", schedule=tokenprune.GeometricSchedule((1,), depth=None)
    )
    parts = {"llava": (3, "I", 5), "qwen": (3, ("I", 6, 4), 5)}
    inputs, (h, w) = case.inputs(parts[name])[0], {"llava": (4, 4), "qwen": (6, 4)}[name]
    with tokenprune.apply(case.model, method=method, keep=3):
        case.model(**inputs)
    before, after, attention = seen[0]
    wanted = torch.from_numpy(slow.scores(before, after, attention[:, 0], h, w)).float()
    with tokenprune.apply(case.model, method="clse", keep=3) as handle:
        case.model(**inputs)
    torch.testing.assert_close(handle.last.images[0].selections[1].scores, wanted, rtol=1e-2, atol=1e-6)
