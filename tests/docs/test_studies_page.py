# SPDX-License-Identifier: Apache-2.0
"""The page of studies says what the committed records say, and no more."""

from pathlib import Path

import pytest
import torch
from pages import studies as pages
from tokenprune_cli.embedded import held_out_scenes, load_embedded_model
from tokenprune_cli.evaluation import tokenized

from benchmarks.studies import STUDIES
from benchmarks.studies.table import interval, markdown, said

ROOT = Path(__file__).parents[3]


@pytest.fixture
def records(monkeypatch):
    monkeypatch.chdir(ROOT)
    return pages.load()


def test_the_page_is_up_to_date(records):
    written = (ROOT / pages.PAGE).read_text()
    assert pages.page(records) == written, "run `python -m pages.studies`"


def test_every_study_has_a_record_of_the_embedded_model_on_the_same_questions(records):
    assert list(records) == list(STUDIES)
    for name, record in records.items():
        assert record["study"] == name and record["model"] == "embedded"
        assert record["command"].startswith(f"tokenprune study {name}")
        assert record["questions"] == records["layers"]["questions"]
        assert record["questions"]["count"] >= 500


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
    assert said({"value": 0.1, "low": 0.01, "high": 0.2}) == "better"
    assert said({"value": -0.1, "low": -0.2, "high": -0.01}) == "worse"
    assert said({"value": 0.1, "low": 0.0, "high": 0.2}) == "noise"
    assert said({"value": 0.1, "low": None, "high": None}) == "noise"


def test_cells_of_tables():
    found = {"value": 0.12345, "low": -0.01, "high": 0.2}
    assert interval(found) == "12.3 (-1.0 to 20.0)"
    assert interval(found, signed=True) == "+12.3 (-1.0 to +20.0)"
    assert interval({"value": 0.5, "low": None, "high": None}) == "50.0"
    assert markdown((("a", "b"), [("1", "2")])) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
