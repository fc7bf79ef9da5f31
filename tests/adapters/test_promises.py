# SPDX-License-Identifier: Apache-2.0
"""`check_model` passes on a tiny model of every family, and fails for each promise that is broken."""

import importlib.util
import json

import pytest
import tiny_models
import torch
from tokenprune_adapters.tiny import FOLDER, tiny_model
from tokenprune_adapters.transformers import engine, pruned_layer, stock
from tokenprune_adapters.transformers.call import Call
from tokenprune_adapters.transformers.engine import Engine
from tokenprune_adapters.transformers.plan import RowPlan
from tokenprune_adapters.transformers.promises import differences, prompts
from tokenprune_adapters.transformers.promises.by_hand import Passage

import tokenprune
from tokenprune.testing import check_model
from tokenprune.testing.outputs import slots_of
from tokenprune.trial import NOT_APPLICABLE, PASSED, PROMISES

FAMILIES = sorted(path.stem for path in FOLDER.glob("*.json"))
SPECIMENS = {
    specimen.name: specimen
    for name in tokenprune.list_adapters()
    for specimen in tokenprune.default_registry().find("adapter", name).specimens()
}
LARGEST = {  # parameters of models with a picture tokenizer, or with a tower of timm and one for sound
    "apertus-1.5": 110_000,
    "emu3": 270_000,
    "gemma-3n": 120_000,
    "janus": 220_000,
}
SOME = ["divprune", "pyramiddrop", "visionzip"]  # before and inside the language model, with new rows


@pytest.fixture(scope="module")
def llava():
    return tiny_model("llava")


def outcomes(check, promise):
    return {r.method: r.outcome for r in check.records if r.promise == promise}


def test_every_configuration_that_ships_is_a_specimen():
    assert set(FAMILIES) <= set(SPECIMENS)
    assert set(SPECIMENS) - set(FAMILIES) == {"timm-vit", "timm-eva", "open-clip"}


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_keeps_every_promise(name):
    specimen = SPECIMENS[name]
    if not specimen.is_installed and specimen.package == "transformers":
        pytest.skip(f"transformers has it from {specimen.least} on")
    assert specimen.is_installed
    model = specimen.build()
    assert sum(weight.numel() for weight in model.parameters()) < LARGEST.get(name, 90_000)
    check = check_model(model, methods=SOME)
    assert check.passed and not check.failures, str(check)
    is_tower = name not in FAMILIES
    assert outcomes(check, "exactness")["divprune"] == PASSED
    assert outcomes(check, "cache")["divprune"] == (NOT_APPLICABLE if is_tower else PASSED)
    for record in check.records:
        if record.promise in ("identity", "undo"):
            assert (record.difference, record.allowed) == (0.0, 0.0)
        elif record.outcome == PASSED:
            assert 0 <= record.difference < 1e-4 and record.allowed == 1e-3


@pytest.mark.parametrize("name", ["paligemma", "qwen3.5"])
def test_two_builds_of_a_specimen_are_the_same_and_leave_the_global_generator(name):
    one = tiny_model(name).state_dict()
    torch.rand(1)
    before, other = torch.get_rng_state(), tiny_model(name).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pruned_answer_of_a_specimen_is_far_from_the_unpruned_one(llava):
    """So that a check which compared a model with itself would not pass by chance."""
    inputs = tokenprune.default_registry().adapter_for(llava)(llava).example_inputs()
    stock_logits = llava(**inputs).logits[:, -1]
    with tokenprune.apply(llava, method="divprune", keep=8):
        pruned = llava(**inputs).logits[:, -1]
    assert differences.of_rows(pruned, stock_logits) > 0.05


# -- caches that are trimmed


TRIMMED = [tokenprune.method(name, trim_early_cache=True) for name in ("fastv", "pyramiddrop")]


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "qwen3-vl", "idefics3", "glm-4v"])
def test_trimmed_caches_keep_every_promise(name):
    """Positions on one axis and three, rows added in early layers."""
    check = check_model(tiny_model(name), methods=TRIMMED)
    assert check.passed and not check.failures, str(check)
    for promise in ("exactness", "batch", "cache"):
        assert 0 <= check.worst(promise).difference < 1e-4 and check.worst(promise).allowed == 1e-3


@pytest.mark.parametrize("broken", ["other rows", "not trimmed", "miscounted"])
def test_a_cache_that_is_trimmed_wrongly_breaks_promises(llava, monkeypatch, broken):
    original = Call.remaining_among
    if broken == "other rows":

        def among(self, layer, later):
            rows = original(self, layer, later)
            return None if rows is None else (rows - 1).clamp(min=0)

        monkeypatch.setattr(Call, "remaining_among", among)
    elif broken == "not trimmed":
        monkeypatch.setattr(Call, "remaining_among", lambda *_: None)
    else:
        record = engine.PruningReport
        monkeypatch.setattr(engine, "PruningReport", lambda *values: record(*values[:-1], values[-1] - 4))
    check = check_model(llava, methods=TRIMMED)
    failures = {(record.method, record.promise): record for record in check.failures}
    assert {method for method, _ in failures} == {"fastv", "pyramiddrop"}
    if broken == "other rows":
        assert {promise for _, promise in failures} >= {"exactness", "cache"}
    if broken == "miscounted":
        assert set(failures) == {("fastv", "cache"), ("pyramiddrop", "cache")}
        assert "bytes trimmed, and" in failures["fastv", "cache"].note


# -- what is reported


def test_what_a_model_cannot_serve_is_not_applicable_and_says_why(llava):
    check = check_model(llava, methods=["cdpruner", "stride"])
    (record,) = [r for r in check.records if r.method == "cdpruner"]
    assert (record.promise, record.outcome) == ("all", NOT_APPLICABLE)
    assert "needs the signal clip_patch_embeds" in record.note
    assert check.passed
    assert not check_model(llava, methods=["cdpruner"]).passed  # nothing was checked


def test_the_report_as_json(llava):
    check = check_model(llava, methods=["stride"], keep=5)
    whole = json.loads(check.to_json())
    assert whole == check.to_dict()
    assert (whole["model"], whole["adapter"]) == ("LlavaForConditionalGeneration", "llava")
    assert (whole["device"], whole["dtype"], whole["settings"]) == ("cpu", "float32", {"attention": "sdpa"})
    assert (whole["budget"], whole["passed"]) == ("keep=5", True)
    assert {r["promise"] for r in whole["records"]} == set(PROMISES)
    (cache,) = [r for r in whole["records"] if r["promise"] == "cache"]
    per_token = 2 * 4 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    assert cache["note"] == f"{(11 + 5) * per_token} of {(11 + 16) * per_token} bytes"
    assert str(check) == "LlavaForConditionalGeneration: every promise was kept by 1 method(s)"


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.bfloat16, 2e-1), (torch.float16, 2e-2), (torch.float64, 1e-6)]
)
def test_tolerances_follow_the_dtype(dtype, allowed):
    check = check_model(tiny_model("llava").to(dtype), methods=["divprune", "fastv"])
    assert check.passed, str(check)
    worst = check.worst("exactness")
    assert worst.difference <= worst.allowed and worst.allowed >= allowed
    assert check.dtype == str(dtype).removeprefix("torch.")


def test_the_attention_implementation_is_the_models():
    model = tiny_model("qwen2.5-vl")
    model.set_attn_implementation("eager")
    check = check_model(model, methods=["divprune", "fastv"])
    assert check.passed, str(check)
    assert check.settings == {"attention": "eager"}


def test_a_model_in_training_is_left_in_training(llava):
    llava.train()
    try:
        assert check_model(llava, methods=["stride"]).passed
        assert all(module.training for module in llava.modules())
    finally:
        llava.eval()


# -- inputs of the caller's own


def test_a_batch_of_the_callers_own_is_divided_into_rows():
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3), (6,))
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    for row, alone in enumerate(prompts.rows_of(adapter, inputs)):
        want = tiny_models.cut_row(inputs, row)
        assert alone.keys() == want.keys()
        assert all(torch.equal(alone[name], want[name]) for name in want)
    assert check_model(model, inputs, methods=["divprune", "sparsevlm"], keep=7).passed


def test_videos_and_pictures_of_unequal_size():
    model = tiny_models.qwen()
    inputs = tiny_models.qwen_inputs((3, ("I", 4, 6), 5), (2, ("I", 4, 2), 3, ("V", 3, 2, 4), 4), (7,))
    inputs.pop("second_per_grid_ts")
    check = check_model(model, inputs, methods=["divprune", "dart"], keep=5)
    assert check.passed, str(check)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.zeros(1, 3, 32, 32), "a mapping with input_ids of shape .* got Tensor"),
        ({"input_ids": torch.zeros(4)}, "a mapping with input_ids"),
        ({"input_ids": torch.ones(1, 4).long()}, "no visual token in these inputs"),
    ],
)
def test_inputs_that_are_none(llava, inputs, said):
    with pytest.raises(tokenprune.UnsupportedCallError, match=said):
        check_model(llava, inputs)


def test_an_input_that_belongs_to_no_row(llava):
    inputs = tokenprune.default_registry().adapter_for(llava)(llava).example_inputs()
    with pytest.raises(tokenprune.UnsupportedCallError, match=r"odd of shape \(5, 2\) cannot be split"):
        check_model(llava, {**inputs, "odd": torch.zeros(5, 2)})


def test_a_model_that_fails_unpruned(llava):
    inputs = tokenprune.default_registry().adapter_for(llava)(llava).example_inputs()
    with pytest.raises(tokenprune.UnsupportedCallError, match="the unpruned Llava.* cannot be run on these"):
        check_model(llava, {**inputs, "position_ids": torch.zeros(1, 2).long()}, methods=["stride"])


def test_budgets_names_and_models_that_cannot_be_checked(llava):
    with pytest.raises(tokenprune.BudgetError, match="keep=16 leaves all 32 visual tokens"):
        check_model(llava, methods=["stride"], keep=16)
    with pytest.raises(tokenprune.BudgetError, match="exactly one of keep"):
        check_model(llava, keep=3, keep_ratio=0.5)
    with pytest.raises(tokenprune.UnknownNameError, match="unknown method 'strid'"):
        check_model(llava, methods=["strid"])
    with pytest.raises(tokenprune.OptionError, match="methods must be a list of names .* got 'stride'"):
        check_model(llava, methods="stride")
    with pytest.raises(tokenprune.UnsupportedModelError, match="takes a torch model, got str"):
        check_model("llava")
    with pytest.raises(tokenprune.UnsupportedModelError, match="Linear"):
        check_model(torch.nn.Linear(2, 2))
    with tokenprune.apply(llava, keep=4), pytest.raises(tokenprune.AlreadyPrunedError, match="is pruned"):
        check_model(llava)


# -- sabotage: each promise broken once, in the engine or under it


@pytest.fixture
def unrehearsed(monkeypatch):
    """What a rehearsal would refuse at once is to be found by the check itself."""
    monkeypatch.setattr("tokenprune_adapters.transformers.rehearsal.rehearse", lambda *_: "left out")


def broken(model, method="divprune"):
    """The promises that a check finds broken, with the record of each."""
    check = check_model(model, methods=[method])
    assert not check.passed
    return {record.promise: record for record in check.failures}


def test_a_position_that_is_off_by_one(monkeypatch, llava, unrehearsed):
    rows = engine.RemainingRows
    original = rows.positions
    monkeypatch.setattr(rows, "positions", lambda self, places: original(self, places) + 1)
    found = broken(llava)
    assert found["exactness"].difference > 1e-3 == found["exactness"].allowed
    assert found["cache"].difference > 1e-3


def test_a_kept_row_that_is_another(monkeypatch, llava, unrehearsed):
    original = RowPlan.make.__func__

    def wrong(cls, keep, rank=None):
        plan = original(cls, keep, rank)
        plan.index[:, 7] = plan.index[:, 8]
        return plan

    monkeypatch.setattr(RowPlan, "make", classmethod(wrong))
    assert {"exactness", "cache"} <= set(broken(llava))


def test_a_mask_that_shows_padding(monkeypatch, llava, unrehearsed):
    """In a padded batch only."""
    original = RowPlan.make.__func__

    def wrong(cls, keep, rank=None):
        plan = original(cls, keep, rank)
        return cls(plan.index, plan.ascending, None, plan.slot)

    monkeypatch.setattr(RowPlan, "make", classmethod(wrong))
    found = broken(llava)
    assert set(found) == {"batch"} and found["batch"].difference > 1e-3


def test_a_mask_inside_the_decoder_that_hides_a_token(monkeypatch, llava, unrehearsed):
    original = Call.valid

    def wrong(self, layer):
        valid, remaining = original(self, layer), self.remaining_at(layer)
        if remaining is not None:
            valid = (
                torch.ones(remaining.plan.index.shape, dtype=torch.bool) if valid is None else valid.clone()
            )
            valid[:, 3] = False
        return valid

    monkeypatch.setattr(Call, "valid", wrong)
    assert broken(llava, "fastv")["exactness"].difference > 1e-3


def test_a_decoding_step_at_the_wrong_place(monkeypatch, llava, unrehearsed):
    original = pruned_layer.PrunedLayer.commit

    def wrong(self, dropped, stored_before, valid, shift, tail=0):
        original(self, dropped, stored_before, valid, None if shift is None else shift - 1, tail)

    monkeypatch.setattr(pruned_layer.PrunedLayer, "commit", wrong)
    assert "exactness" in broken(llava)


def test_bytes_that_are_counted_wrongly(monkeypatch, llava):
    original = stock.bytes_held
    monkeypatch.setattr(
        stock, "bytes_held", lambda layer, n, stored: original(layer, n, stored) + 8 * bool(n)
    )
    found = broken(llava)
    assert set(found) == {"cache"}
    assert "bytes of the cache, and" in found["cache"].note


def test_an_undo_that_leaves_a_hook(monkeypatch, llava):
    model = tiny_model("llava")
    original = Engine.remove

    def wrong(self):
        self.adapter.layers[1].register_forward_hook(lambda *_: None)
        original(self)

    monkeypatch.setattr(Engine, "remove", wrong)
    monkeypatch.setattr("tokenprune_adapters.transformers.rehearsal.rehearse", lambda *_: "left out")
    found = broken(model)
    assert "layers.1' has other hooks than before (_forward_hooks" in found["undo"].note


def test_an_undo_that_changes_a_weight_or_leaves_an_attribute(monkeypatch):
    for change, said in (
        (lambda layers: layers[1].input_layernorm.weight.data.mul_(1.01), None),
        (lambda layers: setattr(layers[2], "left", 1), "has other attributes than before (left)"),
    ):
        model = tiny_model("llava")
        original = Engine.remove

        def wrong(self, change=change, original=original):
            original(self)
            if sum(1 for _ in self.adapter.layers) == 4:  # not in a rehearsal's few
                change(self.adapter.layers)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "remove", wrong)
            patch.setattr("tokenprune_adapters.transformers.rehearsal.rehearse", lambda *_: "left out")
            found = broken(model)["undo"]
        assert said in found.note if said else found.difference > 0 == found.allowed


def test_an_identity_that_is_none(monkeypatch, llava, unrehearsed):
    original = Engine._enter_language

    def wrong(self, module, args, kwargs):
        args, kwargs = original(self, module, args, kwargs)
        return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * (1 + 1e-6)}

    monkeypatch.setattr(Engine, "_enter_language", wrong)
    found = broken(llava)
    assert set(found) == {"identity"} and found["identity"].difference > 0


def test_what_a_rehearsal_refuses_is_a_failure_with_its_words(monkeypatch, llava):
    def refuse(*_):
        raise tokenprune.UnsupportedModelError("a rehearsal gave other rows")

    monkeypatch.setattr("tokenprune_adapters.transformers.rehearsal.rehearse", refuse)
    assert broken(llava)["exactness"].note == "a rehearsal gave other rows"


def test_a_model_whose_reference_does_not_fit_it(monkeypatch, llava, unrehearsed):
    original = Passage.of.__func__
    monkeypatch.setattr(
        Passage,
        "of",
        classmethod(lambda cls, row, rows: original(cls, row, rows * 1.5 + rows.roll(1, 1))),
    )
    record = broken(llava)["exactness"]
    assert (
        "the reference run of the unpruned language model differs by" in record.note
        and record.difference > record.allowed
    )


def test_a_method_that_raises_is_a_failure(llava, install_plugin):
    install_plugin(
        """
        class Faulty(tokenprune.Selector):
            name = "faulty"
            def select(self, tokens, scores, keep):
                raise KeyError("no such thing")
        @tokenprune.hookimpl
        def tokenprune_selectors():
            return [Faulty]
        """
    )
    check = check_model(llava, methods=[tokenprune.Method("mine", selector="faulty")])
    assert not check.passed
    assert "PluginError: selector 'faulty'" in check.failures[0].note


# -- towers


@pytest.mark.parametrize("name", ["timm-vit", "timm-eva"])
def test_a_tower_whose_kept_rows_are_others(monkeypatch, name):
    if importlib.util.find_spec("timm") is None:
        pytest.fail("the tests' environment has timm")
    from tokenprune.towers import run

    original = run.take
    monkeypatch.setattr(run, "take", lambda rows, index: original(rows.roll(1, 1), index))
    assert "exactness" in broken(SPECIMENS[name].build())


def test_made_rows_take_the_next_free_slot():
    def made(*indices):
        return slots_of(tokenprune.Selection(torch.tensor(indices)), 6).tolist()

    assert made(0, -1, 2, -1, -1) == [0, 1, 2, 3, 4]
    assert made(4, -1, 5, -1) == [4, 0, 5, 1]
    assert made(-1, 3) == [0, 3]
