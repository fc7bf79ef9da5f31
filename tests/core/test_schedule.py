# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenprune
from tokenprune import (
    BudgetError,
    ExplicitSchedule,
    GeometricSchedule,
    IncompatibleError,
    OptionError,
    PluginError,
)
from tokenprune.cut import check_schedule
from tokenprune.schedule import falling, mean_rows

ONE = GeometricSchedule((2,))
THREE = GeometricSchedule((8, 16, 24))


def test_one_cut_leaves_what_was_asked_for():
    assert ONE.cuts(64, 576, 32) == {2: 64}


def test_three_cuts_leave_the_same_share_each():
    # (72 / 576)^(1/3) = 1/2
    assert THREE.cuts(72, 576, 32) == {8: 288, 16: 144, 24: 72}


def test_shares_between_are_truncated_and_the_last_cut_is_exact():
    # 100 * 0.2^(1/3) = 58.48, 100 * 0.2^(2/3) = 34.2
    assert THREE.cuts(20, 100, 32) == {8: 58, 16: 34, 24: 20}


@pytest.mark.parametrize(
    ("n_layers", "layers"),
    [(32, (8, 16, 24)), (28, (7, 14, 21)), (40, (10, 20, 30)), (12, (3, 6, 9)), (4, (1, 2, 3))],
)
def test_layers_are_rescaled(n_layers, layers):
    assert THREE.boundaries(n_layers) == layers


def test_rescaled_layers_start_at_1_and_ascend():
    assert ONE.boundaries(4) == (1,)
    assert GeometricSchedule((2, 3, 4)).boundaries(8) == (1, 2, 3)


def test_a_model_with_too_few_layers_is_refused():
    with pytest.raises(
        IncompatibleError, match=r"before the layers 1, 2, 3.*0 \.\.\. 2, the model has 3 layers"
    ):
        THREE.boundaries(3)


def test_exact_layers_are_not_rescaled():
    assert ONE.at(5).cuts(64, 576, 12) == {5: 64}
    with pytest.raises(IncompatibleError, match="before the layers 12.*the model has 12 layers"):
        ONE.at(12).cuts(64, 576, 12)


@pytest.mark.parametrize("layers", [(5, 5), (6, 5), (-1,)])
def test_exact_layers_must_ascend_and_exist(layers):
    with pytest.raises(IncompatibleError, match="must ascend and lie within"):
        ONE.at(*layers).boundaries(12)


def test_nothing_is_cut_when_everything_stays():
    assert ONE.cuts(576, 576, 32) == {} == THREE.cuts(600, 576, 32, "average")


def test_cuts_that_drop_nothing_are_left_out():
    schedule = GeometricSchedule((1, 2, 3))
    assert schedule.rows_at(15, 16) == (15, 15, 15) and schedule.cuts(15, 16, 8) == {1: 15}
    assert schedule.rows_at(14, 16) == (15, 14, 14) and schedule.cuts(14, 16, 8) == {1: 15, 2: 14}
    assert schedule.cuts(12, 16, 8) == {1: 14, 2: 13, 3: 12}


def test_mean_rows_by_hand():
    # layers 0-1 see 10, layer 2 sees 6, layers 3-4 see 2
    assert mean_rows({2: 6, 3: 2}, 10, 5) == pytest.approx((20 + 6 + 4) / 5)


@pytest.mark.parametrize(("average", "rows"), [(192, 166), (128, 98), (64, 30)])
def test_averages_of_comparison_tables(average, rows):
    # the FastV rows of published tables: (2 * 576 + 30 * rows) / 32
    assert ONE.cuts(average, 576, 32, "average") == {2: rows}


def test_an_average_below_the_dense_floor_is_refused_with_the_range():
    with pytest.raises(BudgetError, match=r"an average of 30 rows .* the least is 36\.9\. Give 37 to 576"):
        ONE.cuts(30, 576, 32, "average")


def test_the_nominal_budget_of_a_geometric_schedule_is_its_last_cut():
    assert THREE.cuts(72, 576, 32, "paper") == THREE.cuts(72, 576, 32, "rows")


def test_an_unknown_convention_is_refused():
    with pytest.raises(IncompatibleError, match="'rows', 'average', 'paper', got 'mean'"):
        ONE.cuts(64, 576, 32, "mean")


@given(n=st.integers(2, 200), n_layers=st.integers(4, 48), data=st.data())
def test_every_cut_leaves_less_or_equal_and_the_last_exactly_keep(n, n_layers, data):
    keep = data.draw(st.integers(1, n - 1))
    rows = list(THREE.cuts(keep, n, n_layers).values())
    assert rows == sorted(rows, reverse=True) and rows[-1] == keep and rows[0] <= n


@given(n=st.integers(2, 120), n_layers=st.integers(4, 32), data=st.data())
def test_an_average_is_met_as_closely_as_rows_allow(n, n_layers, data):
    keep = data.draw(st.integers(1, n - 1))
    means = [mean_rows(ONE.cuts(rows, n, n_layers), n, n_layers) for rows in range(1, n + 1)]
    if keep < means[0]:
        with pytest.raises(BudgetError, match="an average of"):
            ONE.cuts(keep, n, n_layers, "average")
        return
    got = mean_rows(ONE.cuts(keep, n, n_layers, "average"), n, n_layers)
    assert abs(got - keep) == pytest.approx(min(abs(mean - keep) for mean in means))


def test_falling_rows_never_grow_and_never_vanish():
    assert falling((50, 60, 0), 40) == (40, 40, 1)


def test_an_explicit_schedule_is_taken_as_it_is():
    schedule = ExplicitSchedule.from_mapping({16: 18, 3: 82, 7: 32})
    assert schedule.cuts(1, 576, 32) == {3: 82, 7: 32, 16: 18}
    assert schedule.cuts(1, 50, 32) == {7: 32, 16: 18}  # before layer 3 there are no more


@pytest.mark.parametrize("cuts", [{"2": 50}, {2: 0.5}, {2: "x"}])
def test_an_explicit_schedule_is_of_whole_numbers(cuts):
    with pytest.raises(BudgetError, match=r"a schedule must be \{layer: rows\}, all integers, got"):
        ExplicitSchedule.from_mapping(cuts)


@pytest.mark.parametrize("cuts", [{}, {2: 0}, {2: 10, 5: 11}])
def test_an_explicit_schedule_that_grows_or_empties_is_refused(cuts):
    with pytest.raises(BudgetError, match="must be at least 1 and not increase from cut to cut"):
        ExplicitSchedule.from_mapping(cuts)


def test_an_explicit_schedule_outside_the_model_is_refused():
    with pytest.raises(IncompatibleError, match="the model has 12 layers"):
        ExplicitSchedule.from_mapping({12: 5}).cuts(1, 10, 12)


@dataclass(frozen=True)
class Strangers(tokenprune.Schedule):
    """Somebody else's, for one cut."""

    layers: tuple[int, ...] = (2,)
    depth: int | None = 32
    rows: object = (64,)

    def rows_at(self, level, n):
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.mark.parametrize(
    ("schedule", "error", "sentence"),
    [
        (GeometricSchedule(()), OptionError, r"must be a tuple of one or more layer indices, got \(\)"),
        (GeometricSchedule(3), OptionError, "one or more layer indices, got 3"),
        (GeometricSchedule((2.0,)), OptionError, r"one or more layer indices, got \(2.0,\)"),
        (ExplicitSchedule((3, 5), (64,)), OptionError, r"gives 1 numbers of rows for 2 layers \(3, 5\)"),
        (ExplicitSchedule((3,), (64, 32)), OptionError, r"gives 2 numbers of rows for 1 layers \(3\)"),
        (
            ExplicitSchedule((3,), (6.5,)),
            OptionError,
            r"rows must be a tuple of integers, one for each cut, got \(6.5,\)",
        ),
        (Strangers().at(2, 5), OptionError, r"Strangers gives 1 numbers of rows for 2 layers"),
        (Strangers(rows=64), OptionError, "rows must be a tuple of integers, one for each cut, got 64"),
        (Strangers(rows=KeyError("576")), PluginError, "Strangers.rows_at failed: KeyError: '576'"),
        (Strangers(rows=BudgetError("too few")), BudgetError, "too few"),
    ],
)
def test_rows_that_do_not_go_with_layers_are_refused(schedule, error, sentence):
    with pytest.raises(error, match=sentence):
        check_schedule(schedule)


def test_every_presets_own_schedule_fits():
    schedules = [tokenprune.method(name).schedule for name in tokenprune.list_methods()]
    for schedule in filter(None, [*schedules, Strangers(), ExplicitSchedule((3, 5), (8, 4))]):
        check_schedule(schedule)


def test_explicit_cuts_that_leave_what_there_is_are_none():
    schedule = tokenprune.ExplicitSchedule.from_mapping({2: 16, 3: 16, 4: 5})
    assert schedule.cuts(5, 16, 8) == {4: 5}
    assert schedule.cuts(5, 20, 8) == {2: 16, 4: 5}
    assert schedule.cuts(5, 4, 8) == {}
