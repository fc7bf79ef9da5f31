# SPDX-License-Identifier: Apache-2.0
"""Checks of a model's promises off the usual way: choices by a hair, odd inputs, no cache, wrong answers."""

import copy
import math

import pytest
import tiny_models
import torch
from tiny_models import llava_inputs
from tokenprune_adapters.tiny import tiny_model
from tokenprune_adapters.transformers import stock
from tokenprune_adapters.transformers.promises import differences, observed, prompts, trial
from transformers import DynamicLayer

import tokenprune
from tokenprune import ImageReport, Layout, Selection
from tokenprune.testing import check_model
from tokenprune.trial import FAILED, PASSED


@pytest.fixture(scope="module")
def llava():
    return tiny_model("llava")


def adapter_of(model):
    return tokenprune.default_registry().adapter_for(model)(model)


def records_of(check, method=None):
    return {record.promise: record for record in check.records if method in (None, record.method)}


# -- choices that rounding decides


class Wavering(tokenprune.Scorer):
    """Scores all tokens about equally, the first ones higher in one call and the last ones in the next."""

    name = "wavering"

    def __init__(self, width):
        self.width, self.calls = width, 0

    def score(self, tokens):
        self.calls += 1
        hair = torch.linspace(0, self.width, len(tokens))
        return 1 + (hair if self.calls % 2 else hair.flip(0))


@pytest.mark.parametrize("where", [{}, {"stage": "decoder", "schedule": tokenprune.GeometricSchedule((2,))}])
def test_a_batch_may_keep_other_tokens_than_its_row_where_scores_differ_by_rounding(llava, where):
    method = tokenprune.Method("m", scorer=Wavering(1e-6), **where)
    check = check_model(llava, methods=[method], keep=8)
    assert check.passed, str(check)
    batch = records_of(check)["batch"]
    assert (batch.outcome, batch.note) == (PASSED, "1 of 1 rows kept other tokens, by rounding")
    assert 0 < batch.difference < 1e-4


def test_a_batch_that_keeps_other_tokens_by_other_scores_breaks_its_promise(llava):
    check = check_model(llava, methods=[tokenprune.Method("m", scorer=Wavering(0.5))], keep=8)
    (batch,) = check.failures
    rise = 1 + torch.linspace(0, 0.5, 16, dtype=torch.float64)
    assert batch.promise == "batch" and batch.note.startswith("1 of 1 rows kept other tokens")
    assert batch.difference >= float((rise - rise.flip(0)).norm() / rise.norm()) - 1e-6 > batch.allowed


def image(cuts, **more):
    selections = {layer: Selection(torch.tensor(slots), scores=scores) for layer, slots, scores in cuts}
    counts = {layer: len(selection) for layer, selection in selections.items()}
    return ImageReport(0, Layout((1, 1, 4)), 4, 4, cuts=counts, selections=selections, **more)


def test_how_far_the_scores_of_another_choice_are_apart():
    one, two = torch.tensor([1.0, 2.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 2.0, 0.3])
    far = torch.tensor([9.0, 9.0, 9.0, 9.0])
    same = image([(1, [0, 1, 2], one), (2, [0, 1], one)])
    assert trial._scores_apart([same], [same]) == 0.0
    later = image([(1, [0, 1, 2], two), (2, [1, 2], two)])
    assert trial._scores_apart([later], [same]) == pytest.approx(0.1)  # 0.3 of a size of 3
    first = image([(1, [1, 2, 3], two), (2, [0, 1], far)])  # what later cuts found is another's
    assert trial._scores_apart([first], [same]) == pytest.approx(0.1)
    without = image([(1, [1, 2, 3], None), (2, [0, 1], None)])
    assert trial._scores_apart([without, later], [same, same]) == pytest.approx(0.1)
    fewer = image([(1, [0, 1], one)])
    assert trial._scores_apart([fewer], [same]) == math.inf
    assert trial._scores_apart([], []) == 0.0


# -- inputs


def test_inputs_that_are_no_tensors_go_with_every_row(llava):
    inputs = adapter_of(llava).example_inputs()
    check = check_model(
        llava, {**inputs, "use_cache": True, "logits_to_keep": 0}, methods=["divprune"], keep=9
    )
    assert check.passed, str(check)
    assert records_of(check)["exactness"].outcome == PASSED


def test_an_input_with_an_entry_for_each_row_is_divided_by_rows():
    model = tiny_models.llava()
    inputs = llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
    weights = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    rows = prompts.rows_of(
        adapter_of(model), {**inputs, "weights": weights, "n": torch.tensor(3), "kind": "x"}
    )
    for number, row in enumerate(rows):
        assert torch.equal(row["weights"], weights[number : number + 1])
        assert (int(row["n"]), row["kind"]) == (3, "x")
    whole = prompts.joined(rows)
    assert (whole["kind"], int(whole["n"])) == ("x", 3)
    assert torch.equal(whole["weights"], weights) and torch.equal(whole["input_ids"], inputs["input_ids"])


def test_an_image_that_a_budget_leaves_whole_beside_one_that_it_cuts():
    model = tiny_models.qwen()
    inputs = tiny_models.qwen_inputs((3, ("I", 4, 6), 2, ("I", 2, 3), 5))
    for method in ("divprune", "fastv"):
        check = check_model(model, inputs, methods=[method], keep=8)
        assert check.passed, str(check)
        assert records_of(check)["exactness"].outcome == PASSED
        with tokenprune.apply(model, method=method, keep=8) as handle:
            model(**inputs)
        assert [image.n_after for image in handle.last.images] == [8, 6]


def test_a_model_for_which_no_picture_can_be_made(llava):
    model = copy.deepcopy(llava)
    inputs = adapter_of(model).example_inputs()
    assert tuple(inputs["pixel_values"].shape[-2:]) == (model.config.vision_config.image_size,) * 2
    model.config.vision_config.image_size = None
    with pytest.raises(tokenprune.UnsupportedModelError, match="'llava' makes no picture for LlavaForCond"):
        check_model(model, methods=["divprune"])
    model.config.vision_config.image_size = [32, 24]
    assert tuple(adapter_of(model).example_picture(torch.Generator())["images"].shape) == (1, 3, 32, 24)


# -- the cache


def test_a_model_whose_settings_switch_the_cache_off_is_checked_with_one(llava):
    model = copy.deepcopy(llava)
    model.generation_config.use_cache = False
    check = check_model(model, methods=["divprune", "fastv"], keep=9)
    assert check.passed, str(check)
    per_token = 2 * 4 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    cache = records_of(check, "divprune")["cache"]
    assert (cache.outcome, cache.note.split()[0]) == (PASSED, str((11 + 9) * per_token))


def layer_of(n, seed=0):
    keys, values = torch.randn(2, 1, 2, n, 3, generator=torch.Generator().manual_seed(seed)).unbind()
    layer = DynamicLayer()
    layer.keys, layer.values = keys, values
    return layer


def test_caches_are_apart_by_their_tokens():
    one, other = layer_of(5), layer_of(5)
    assert differences.of_caches([one], [other]) == (0.0, "")
    other.values = other.values.clone()
    other.values[0, :, 3] *= 1.5
    largest, said = differences.of_caches([one, one], [one, other])
    assert (round(largest, 6), said) == (round(0.5 / 1.5, 6), "")
    largest, said = differences.of_caches([one, one], [one, layer_of(4)])
    assert largest == math.inf and "layer 1 stores 5 tokens" in said and " 4 " in said
    assert differences.bytes_of([one, layer_of(4)], [3, 9]) == 2 * (3 + 4) * 2 * 3 * 4


def test_rows_are_apart_relative_to_their_size():
    rows = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert differences.of_rows(rows, rows) == 0.0
    assert differences.of_rows(rows + torch.tensor([[0.0, 1.0], [0.0, 0.0]]), rows) == pytest.approx(0.2)
    assert differences.of_rows(rows[:1], rows) == math.inf
    assert differences.of_rows(rows[:0], rows[:0]) == 0.0


def test_a_cache_that_stores_a_token_too_many_is_found(monkeypatch, llava):
    """A decoder whose pruned layers would keep one more row than was planned, as far as a check can tell."""
    original = observed.answered

    def wrong(adapter, inputs, tokens):
        answer = original(adapter, inputs, tokens)
        if tokenprune.is_pruned(adapter.model):
            layer = stock.layers_of(answer.kv)[2]
            layer.keys, layer.values = (torch.cat([t, t[:, :, :1]], 2) for t in (layer.keys, layer.values))
        return answer

    monkeypatch.setattr(trial, "answered", wrong)
    check = check_model(llava, methods=["divprune"], keep=9)
    (record,) = check.failures
    assert (record.promise, record.outcome) == ("cache", FAILED)
    assert record.note.startswith("layer 2 stores ") and record.difference is None


def test_two_methods_that_cut_before_the_same_layer_share_what_entered_it(llava, monkeypatch):
    runs, original = [], observed.answered
    monkeypatch.setattr(observed, "answered", lambda *given: runs.append(1) or original(*given))
    one = check_model(llava, methods=["fastv"], keep=9)
    n_one = len(runs)
    runs.clear()
    both = check_model(llava, methods=["fastv", "fastv"], keep=9)
    assert one.passed and both.passed
    assert len(runs) == n_one > 0  # `before` runs the unpruned model once for each layer
