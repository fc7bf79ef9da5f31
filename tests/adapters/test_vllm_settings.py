# SPDX-License-Identifier: Apache-2.0
"""Settings of a vLLM engine and budgets of its requests; these tests do not need vLLM."""

import dataclasses
import types

import pytest
from tokenprune_vllm.errors import EngineRefusedError, MisplacedError, refusing
from tokenprune_vllm.settings import Settings, without_pruning_entry

import tokenprune
from tokenprune import Budget, BudgetError, IncompatibleError, Layout, OptionError, UnknownNameError

SQUARE = Layout((1, 24, 24))


def test_a_configuration_without_our_entry_is_none():
    assert Settings.read(types.SimpleNamespace()) is None


def test_the_default_method_and_all_options_are_read():
    plain = Settings.parse({"keep": 64})
    assert plain.method.name == "zoo-exact" and plain.budget == Budget(64) == plain.max_budget
    assert plain.rows(SQUARE, plain.budget) == 64
    full = Settings.parse(
        {
            "method": "visionzip",
            "options": {"dominant": 27},
            "keep": 32,
            "max_keep": 100,
            "scope": "image",
            "newlines": "keep",
            "min_tokens": 600,
        }
    )
    assert full.method.reducer.dominant == 27 and full.method.scope == "image"
    assert full.max_budget == Budget(100) and full.rows(SQUARE, full.budget) == 576  # below min_tokens
    pair = Settings.parse({"scorer": "random", "selector": "topk", "seed": 7, "keep_ratio": 0.25})
    assert pair.method.name == "random+topk" and pair.method.scorer.seed == 7
    assert pair.rows(SQUARE, pair.budget) == 144


def test_a_cut_inside_the_tower_has_its_rows_before_the_tower_runs():
    entry = {"method": "divprune", "stage": "vision", "layer": 4, "keep": 64, "max_keep": 96}
    settings = dataclasses.replace(Settings.parse(entry), n_blocks=12)
    assert settings.cuts_tower and not Settings.parse({"method": "divprune", "keep": 64}).cuts_tower
    assert settings.method.schedule.boundaries(12) == (4,)
    assert settings.rows_allowed(SQUARE, settings.budget) == 64
    assert settings.rows_allowed(SQUARE, Budget(None, 0.125)) == 72
    assert settings.rows_allowed(Layout((1, 6, 6)), settings.budget) == 36  # nothing to cut
    with pytest.raises(BudgetError, match="keep=97 would keep 97 of 576 rows"):
        settings.rows_allowed(SQUARE, Budget(97))
    twice = dataclasses.replace(Settings.parse({**entry, "layer": [2, 6]}), n_blocks=12)
    assert twice.rows(SQUARE, twice.budget) == 64


def test_other_configurations_have_other_names_in_caches():
    base = {"method": "divprune", "keep": 64}
    others = [base, {**base, "keep": 65}, {**base, "method": "stride"}, {**base, "scope": "tile"}]
    assert len({Settings.parse(entry).digest for entry in others}) == 4
    assert Settings.parse(dict(reversed(base.items()))).digest == Settings.parse(base).digest


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ("zoo-exact", OptionError, 'takes an object such as {"method": "zoo-exact", "keep": 64}'),
        ({"metod": "zoo-exact", "keep": 64}, OptionError, "has no entry 'metod'; it takes method"),
        ({"method": "zoo-exakt", "keep": 64}, UnknownNameError, "Did you mean 'zoo-exact'"),
        ({"method": "fastv", "keep": 64}, IncompatibleError, "before the language model can be used"),
        ({"method": "sparsevlm", "keep": 64}, IncompatibleError, "one key-value cache layout"),
        ({"method": "tower-diverse", "keep": 64}, IncompatibleError, "leave 'then' out"),
        (
            {"method": "divprune", "keep": 64, "options": {"then": "fastv"}},
            IncompatibleError,
            "leave 'then' out",
        ),
        ({"method": ["zoo-exact", "fastv"], "keep": 64}, IncompatibleError, "give a single method"),
        ({"method": "divprune", "scorer": "zoo", "keep": 64}, OptionError, "not both"),
        ({"method": "zoo-exact"}, BudgetError, "exactly one of keep"),
        ({"keep": 0}, BudgetError, "at least 1"),
        ({"keep": "64"}, BudgetError, "must be an integer"),
        ({"keep_ratio": 1.5}, BudgetError, "must lie in"),
        ({"keep": 64, "max_keep": 32}, BudgetError, "keep=64 is above this engine's max_keep=32"),
        ({"keep": 64, "min_tokens": -1}, BudgetError, "min_tokens must be"),
        ({"keep": 64, "options": ["a"]}, OptionError, '"options" takes an object'),
        ({"keep": 64, "options": {"colour": 1}}, OptionError, "has no option 'colour'"),
        ({"keep": 64, "scope": "row"}, IncompatibleError, "scope must be one of"),
        ({"keep": 64, "seed": "x"}, OptionError, "seed must be an integer"),
        ({"keep": 64, "seed": 2**64}, OptionError, "seed must lie between 0 and 2**63 - 1"),
        (
            {"keep": 64, "max_keep": "x"},
            BudgetError,
            "max_keep must be an integer of at least 1",
        ),
        (
            {"method": "visionzip", "keep": 9, "options": {"dominant": 8.5}},
            OptionError,
            "dominant must be an integer or None, got 8.5",
        ),
        (
            {"method": "zoo-prune", "keep": 9, "options": {"n_directions": 64.0}},
            OptionError,
            "n_directions must be an integer, got 64.0",
        ),
        (
            {"method": "random", "keep": 9, "options": {"seed": -1}},
            OptionError,
            "seed must lie between 0 and 2**63 - 1, got -1",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(entry, error, words):
    with pytest.raises(error) as caught:
        Settings.parse(entry)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("request_entry", "rows"),
    [
        ({}, 64),
        ({"keep": 10}, 10),
        ({"keep": 128}, 128),
        ({"keep_ratio": 0.1}, 58),
        ({"keep_ratio": 0.2}, 115),
    ],
)
def test_requests_may_ask_for_less_and_up_to_the_maximum(request_entry, rows):
    settings = Settings.parse({"method": "divprune", "keep": 64, "max_keep": 128})
    budget = settings.request_budget({"tokenprune": request_entry} if request_entry else {})
    assert settings.rows_allowed(SQUARE, budget) == rows


@pytest.mark.parametrize(
    ("request_entry", "words"),
    [
        ({"keep": 129}, "keep=129 would keep 129 of 576 rows, but this engine allows 128"),
        ({"keep_ratio": 0.5}, "keep_ratio=0.5 would keep 288 of 576 rows"),
        ({"keep": 0}, "at least 1"),
        ({"keep": "x"}, "must be an integer"),
        ({"method": "stride"}, "a request can only set"),
        ({}, "a request can only set"),
        (5, "a request can only set"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_a_value_error(request_entry, words):
    settings = Settings.parse({"method": "divprune", "keep": 64, "max_keep": 128})
    with pytest.raises(BudgetError) as caught:
        settings.rows_allowed(SQUARE, settings.request_budget({"tokenprune": request_entry}))
    assert isinstance(caught.value, ValueError) and words in str(caught.value)


def test_rows_a_method_cannot_make_are_refused_before_the_tower_runs():
    settings = Settings.parse(
        {"method": "visionzip", "options": {"dominant": 27, "contextual": 5}, "keep": 32}
    )
    assert settings.rows_allowed(SQUARE, settings.budget) == 32
    with pytest.raises(BudgetError, match="do not add up to keep=31"):
        settings.rows_allowed(SQUARE, Budget(31))
    assert settings.rows_allowed(Layout((1, 4, 4)), Budget(31)) == 16  # all of them: nothing to split


def test_more_than_allowed_of_a_picture_that_has_no_more_is_allowed():
    settings = Settings.parse({"method": "divprune", "keep": 64})
    assert settings.rows_allowed(Layout((1, 5, 5)), Budget(100)) == 25


def test_our_entry_is_taken_out_of_what_image_processors_get():
    assert without_pruning_entry({"tokenprune": {"keep": 1}, "size": 3}) == {"size": 3}


def test_a_refusal_of_an_engine_is_no_value_error():
    with pytest.raises(EngineRefusedError, match="tokenprune: keep must be at least 1") as caught, refusing():
        Settings.parse({"keep": 0})
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "arguments", [{"images_kwargs": {"tokenprune": {"keep": 8}}}, {"a": {"tokenprune": 8}}]
)
def test_a_budget_inside_another_argument_is_refused(arguments):
    settings = Settings.parse({"method": "divprune", "keep": 64})
    with pytest.raises(
        MisplacedError, match=f"would be ignored in '{next(iter(arguments))}' of the arguments"
    ):
        settings.request_budget({"tokenprune": {"keep": 8}, **arguments})


def test_a_setting_file_is_read_for_its_architecture(tmp_path):
    """Weights are not compared: vLLM's model has other modules."""
    path = tmp_path / "setting.json"
    model = {"name": "small", "architecture": "LlavaForConditionalGeneration", "weights": "0"}
    arguments = {"method": "zoo-prune", "options": {"n_directions": 16}, "keep": 9, "seed": 3}
    tokenprune.CalibratedSetting(arguments, model).save(path)

    def configuration(architecture, **beside):
        return types.SimpleNamespace(
            architectures=[architecture], tokenprune={"setting": str(path), **beside}
        )

    read = Settings.read(configuration("LlavaForConditionalGeneration", max_keep=18))
    plain = Settings.parse({**arguments, "max_keep": 18})
    assert (read.method, read.budget, read.max_budget, read.digest) == (
        plain.method, plain.budget, plain.max_budget, plain.digest,
    )  # fmt: skip
    with pytest.raises(tokenprune.InputError, match="not on a Gemma3ForConditionalGeneration"):
        Settings.read(configuration("Gemma3ForConditionalGeneration"))
    with pytest.raises(tokenprune.OptionError, match="keep"):
        Settings.read(configuration("LlavaForConditionalGeneration", keep=3))
    rule = {"method": "divprune", "cover": {"radius": 0.2}, "seed": 0}
    tokenprune.CalibratedSetting(rule, model).save(path)
    with pytest.raises(IncompatibleError, match="as many tokens as cover each picture, but vLLM counts"):
        Settings.read(configuration("LlavaForConditionalGeneration"))
    assert Settings.read(types.SimpleNamespace()) is None
