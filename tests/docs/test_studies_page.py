# SPDX-License-Identifier: Apache-2.0
"""The page of studies says what the committed records say, and no more."""

from pathlib import Path

import pytest
import torch
from blocks import studies
from blocks.sources import read_record
from tokenprune_embedded import held_out_scenes, load_embedded_model
from tokenprune_evaluation.prompts import tokenized

from benchmarks.studies import STUDIES
from benchmarks.studies.table import interval, verdict

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
RESULTS = "**Results.**"


@pytest.fixture
def records():
    """Those on the scenes that ship with the package."""
    return {name: read_record(f"studies/{name}") for name in STUDIES if name != "combinations"}


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_study_has_its_section(study):
    mark = f"<!-- block study {study.name} -->"
    (section,) = [section for section in PAGE.split("\n## ")[1:] if mark in section]
    assert section.count(mark) == section.count("<!-- block study ") == 1
    assert f"*{study.asks}*" in " ".join(section.split())
    assert section.count(RESULTS) == 1


def test_every_study_has_a_record_of_the_embedded_model_on_the_same_questions(records):
    for name, record in records.items():
        assert record["study"] == name and record["model"] == "embedded"
        assert record["command"].startswith(f"python -m benchmarks.studies {name}")
        assert record["questions"] == records["layers"]["questions"]
        assert record["questions"]["count"] >= 500


def verdicts(name):
    """What stands in the page's lists: number of kept tokens -> better, worse, noise -> variants."""
    return studies.verdicts(read_record(f"studies/{name}"))


def test_what_the_page_finds_at_the_layers_is_in_the_record():
    assert verdicts("layers")["18"]["better"] == verdicts("layers")["18"]["worse"] == []
    nine = verdicts("layers")["9"]
    assert nine["worse"] == ["layer 2", "layer 3", "layer 5"]
    assert nine["noise"] == ["layer 1", "layer 4", "whole encoder"]


def test_what_the_page_finds_about_sampling_is_in_the_record():
    groups = verdicts("sampling")["18"]
    assert groups["better"] == ["m = 1, h = 0.01"] and groups["worse"] == []
    steps = {
        studies.spearman("sampling", f"m = 64, h = {h}", "closed form") for h in ("0.001", "0.01", "1", "10")
    }
    assert len(steps) == 1
    with_closed_form = float(studies.spearman("sampling", "m = 64, h = 0.01", "closed form"))
    assert float(studies.spearman("sampling", "m = 64, another seed", "m = 64, h = 0.01")) < with_closed_form


def test_what_the_page_finds_about_product_and_sum_is_in_the_record():
    found = verdicts("combination")
    for kept in ("36", "18", "9"):
        assert {"sensitivity alone", "random"} == set(found[kept]["worse"])
    assert found["18"]["better"] == ["diversity alone"] and found["9"]["better"] == ["sum"]
    assert "diversity alone" in found["36"]["noise"] and "diversity alone" in found["9"]["noise"]


def test_what_the_page_finds_about_normalisation_and_positions_is_in_the_record():
    found = verdicts("normalise")
    assert [found[kept]["worse"] for kept in ("36", "18", "9")] == [
        ["minmax"],
        ["minmax"],
        ["minmax", "diversity alone"],
    ]
    assert [verdicts("positions")[kept]["better"] for kept in ("36", "18", "9")] == [[], ["original"], []]


def test_what_the_page_finds_about_the_place_is_in_the_record():
    for groups in verdicts("place").values():
        assert groups == {"better": [], "worse": ["random, before the language model"], "noise": ["FastV"]}


def test_what_the_page_finds_about_half_precision_is_in_the_record():
    found = verdicts("precision")
    assert found["18"]["better"] == ["differences in float16"] and found["9"]["worse"] == [
        "differences in bfloat16"
    ]


def test_figures_in_sentences_are_those_of_the_records():
    assert studies.right("layers", "layer 2", "9") == "26.4 %"
    assert studies.points("combination", "diversity alone", "18") == "6.1"
    assert studies.spearman("correlation", "whole encoder", "projector", "0.5") == "0.00"
    assert studies.common("precision", "model in bfloat16", "float32") == "98 %"
    assert studies.tokens("correlation", "whole encoder", "projector", "0.5") == "10"
    with pytest.raises(ValueError, match="no variant 'layer 9' with 9 tokens"):
        studies.right("layers", "layer 9", "9")
    with pytest.raises(ValueError, match="does not compare the rankings"):
        studies.spearman("layers", "layer 1", "projector")


def test_the_records_are_of_the_studies_as_they_are_now(records):
    model, _ = load_embedded_model()
    for name, record in records.items():
        plan = STUDIES[name].plan(model)
        cells = [(cell["variant"], cell["share"]) for cell in record["cells"][1:]]
        assert cells == [(variant.name, share) for share in plan.shares for variant in plan.variants]
        pairs = [(pair["of"], pair["against"], pair["floor"]) for pair in record["rankings"]]
        assert pairs == [(pair.of, pair.against, pair.floor) for pair in plan.pairs]
        assert record["base"] == plan.base


def test_differences_are_those_of_the_scores(records):
    for record in records.values():
        score = {(cell["variant"], cell["share"]): cell["score"]["value"] for cell in record["cells"]}
        for cell in record["cells"]:
            if cell["above_base"] is not None:
                gap = score[cell["variant"], cell["share"]] - score[record["base"], cell["share"]]
                assert cell["above_base"]["value"] == pytest.approx(gap, abs=2e-5)
                assert cell["above_base"]["low"] <= cell["above_base"]["value"] <= cell["above_base"]["high"]


def test_the_tower_rows_are_as_long_as_the_page_says():
    model, processor = load_embedded_model()
    scene, questions = next(held_out_scenes(1))
    inputs = tokenized(processor, [scene.image], [questions[0].text])
    with torch.no_grad():
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    assert float(states[-2][:, 1:].norm(dim=-1).mean()) == pytest.approx(87, abs=3)


def test_words_for_differences():
    assert verdict({"value": 0.1, "low": 0.01, "high": 0.2}) == "better"
    assert verdict({"value": -0.1, "low": -0.2, "high": -0.01}) == "worse"
    assert verdict({"value": 0.1, "low": 0.0, "high": 0.2}) == "noise"
    assert verdict({"value": 0.1, "low": None, "high": None}) == "noise"


def test_cells_of_tables():
    found = {"value": 0.12345, "low": -0.01, "high": 0.2}
    assert interval(found) == "12.3 (-1.0 to 20.0)"
    assert interval(found, signed=True) == "+12.3 (-1.0 to +20.0)"
    assert interval({"value": 0.5, "low": None, "high": None}) == "50.0"
