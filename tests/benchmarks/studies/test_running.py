# SPDX-License-Identifier: Apache-2.0
"""Studies on an untrained model of the embedded kind: what is recorded, what is refused before any work."""

import dataclasses
import json

import pytest
import tiny_models
import torch
from tokenprune_evaluation.question_set import embedded_scenes

import tokenprune
from benchmarks.studies import STUDIES, Study, run_study
from benchmarks.studies.study import Pair


def small(questions, n):
    """The first `n` questions."""
    return dataclasses.replace(questions, items=questions.items[:n])


@pytest.fixture(scope="module")
def questions():
    """Six questions about one scene, six about another."""
    whole = embedded_scenes(2)
    other = [item for item in whole.items if item.image == 1]
    return dataclasses.replace(whole, items=(*whole.items[:6], *other[:6]))


def cut_down(name, variants, shares=(1 / 8,), **changes):
    """A study with fewer variants."""

    def plan(model):
        full = STUDIES[name].plan(model)
        some = tuple(v for v in full.variants if v.name in variants)
        return dataclasses.replace(full, variants=some, shares=shares, **changes)

    return dataclasses.replace(STUDIES[name], plan=plan)


def test_a_study_records_every_cell_and_ranking(untrained_model, questions):
    told = []
    study = cut_down(
        "sampling",
        ("closed form", "m = 1, h = 0.01"),
        pairs=(Pair("m = 1, h = 0.01", "closed form"), Pair("closed form", "closed form")),
    )
    record = run_study(
        study,
        *untrained_model,
        questions,
        max_new_tokens=1,
        batch=8,
        progress=lambda *step: told.append(step),
    )
    assert json.loads(json.dumps(record)) == record
    assert record["questions"] == {
        "name": "2 embedded scenes", "count": 12, "pictures": 2, "metric": "exact_match"
    }  # fmt: skip
    cells = [(cell["variant"], cell["share"], cell["kept"]) for cell in record["cells"]]
    assert cells == [("unpruned", None, 144), ("closed form", 0.125, 18), ("m = 1, h = 0.01", 0.125, 18)]
    assert [cell["above_base"] is None for cell in record["cells"]] == [True, True, False]
    gap = record["cells"][2]["above_base"]
    assert gap["value"] == pytest.approx(
        record["cells"][2]["score"]["value"] - record["cells"][1]["score"]["value"], abs=1e-5
    )
    sampled, itself = record["rankings"]
    assert itself["tokens"] == 144
    assert itself["spearman"] == {"mean": 1, "low": 1, "high": 1, "pictures": 2}
    assert itself["kept_in_common"]["mean"] == 1
    assert 0 < sampled["spearman"]["mean"] < 1
    assert told[0] == ("ranking", 1, 2) and told[-1] == ("answering", 6, 6)


def test_answers_are_those_of_the_method_itself(untrained_model, questions):
    """A study's variant and the method by name keep the same tokens, so that they answer alike."""
    from tokenprune_evaluation.answering import answer_batch
    from tokenprune_evaluation.settings import Setting

    from benchmarks.studies.running import _answers

    model, processor = untrained_model
    plan = cut_down("combination", ("product", "diversity alone")).plan(model)
    answers, kept = _answers(plan, model, processor, questions, 3, 64, lambda *step: None)
    batch = questions.inputs(processor, range(len(questions.items)))
    for variant, method in (("product", "zoo-exact"), ("diversity alone", "divprune")):
        setting = Setting(method, 18)
        with setting.applied(model) as handle:
            found = answer_batch(model, processor, batch, handle, setting, 3)
        assert answers[variant, 1 / 8] == [one.text for one in found]
        assert set(kept[variant, 1 / 8]) == {18}


def test_the_layers_study_chooses_by_the_encoder(untrained_model, questions):
    study = cut_down("layers", ("projector", "layer 2", "whole encoder"))
    record = run_study(study, *untrained_model, small(questions, 6), max_new_tokens=1)
    assert [cell["variant"] for cell in record["cells"]] == [
        "unpruned",
        "projector",
        "layer 2",
        "whole encoder",
    ]
    assert {cell["kept"] for cell in record["cells"][1:]} == {18}


def test_half_precision_is_compared_on_a_copy(untrained_model, questions):
    model, processor = untrained_model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    names = ("closed form", "closed form, model in bfloat16")
    full = STUDIES["precision"].plan(model)
    scorers = {name: full.scorers[name] for name in names}
    study = cut_down("precision", (), (), scorers=scorers, pairs=(Pair(*reversed(names)),))
    record = run_study(study, model, processor, small(questions, 6))
    assert record["cells"] == []
    assert 0.9 < record["rankings"][0]["spearman"]["mean"] < 1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.dtype == torch.float32 and not tokenprune.is_pruned(model)


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("layers", tiny_models.qwen, "layers of a vision encoder"),
        ("correlation", tiny_models.qwen, "layers of a vision encoder"),
        ("positions", tiny_models.qwen, "positions='contiguous' is not possible on this model"),
        ("precision", lambda: tiny_models.llava(dtype=torch.bfloat16), "load the model in float32"),
        ("precision", tiny_models.qwen, "linear -> activation -> linear"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_any_work(name, model, message, questions):
    with pytest.raises(tokenprune.IncompatibleError, match=message):
        run_study(STUDIES[name], model(), None, questions)  # without a processor nothing could run


def test_mixed_metrics_are_refused(questions):
    item = dataclasses.replace(questions.items[0], metric="vqa_accuracy")
    mixed = dataclasses.replace(questions, items=(*questions.items, item))
    with pytest.raises(tokenprune.IncompatibleError, match="must share one metric, got exact_match, vqa_acc"):
        run_study(STUDIES["normalise"], tiny_models.llava(), None, mixed)


def test_every_study_has_a_name_a_question_and_a_plan_for_the_embedded_kind(untrained_model):
    for name, study in STUDIES.items():
        assert isinstance(study, Study) and study.name == name and study.asks.endswith("?")
        plan = study.plan(untrained_model[0])
        names = [variant.name for variant in plan.variants]
        assert len(set(names)) == len(names) and (plan.base in names or not names)
        assert {n for pair in plan.pairs for n in (pair.of, pair.against)} <= set(plan.scorers)
        assert plan.variants or plan.pairs
