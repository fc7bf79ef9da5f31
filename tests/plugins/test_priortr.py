# SPDX-License-Identifier: Apache-2.0
import pytest
import tiny_models
import torch
from model_cases import Case
from reference import golden

import tokenprune

GOLDEN = golden.names("priortr_n*_k*", "priortr_n64_k16", "priortr_n64_k8")
KEEP = 5


def method_of(code, query, heads="mean"):
    return tokenprune.method("priortr", query=query, heads=heads, last_row=code == "llava")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_picks(name):
    vectors = golden.load(name)
    rows, keep = vectors["attn_rows"], int(vectors["keep_tokens"])
    signals = {
        "attention_rows": lambda layer, wanted: rows[:, wanted],
        "text_embeds": torch.zeros(rows.shape[1], 2),
    }
    tokens = tokenprune.VisualTokens(torch.zeros(rows.shape[-1], 2), signals)
    cases = [key.split("_")[1:] for key in vectors if key.startswith("kept_")]
    assert len(cases) >= 5
    for code, query, heads in cases:
        chosen = method_of(code, query, heads).select(tokens, keep, layer=3)
        wanted = vectors[f"kept_{code}_{query}_{heads}"]
        scores, margin = chosen.scores, float(vectors[f"margin_{code}_{query}_{heads}_f64"])
        if margin > 1e-6:
            assert chosen.indices.tolist() == wanted.tolist()
        else:  # a tie up to rounding: at most the last pick differs
            assert len(set(chosen.indices.tolist()) ^ set(wanted.tolist())) <= 2
            assert scores[wanted].min() == pytest.approx(float(scores[chosen.indices].min()), abs=2e-6)


def test_one_cut_before_layer_3_of_32_and_positions_stay():
    method = tokenprune.method("priortr")
    assert (method.stage, method.positions, method.newlines) == ("decoder", "original", "compete")
    cuts = {n_layers: method.schedule.cuts(64, 576, n_layers) for n_layers in (28, 32, 36, 40)}
    assert cuts == {28: {3: 64}, 32: {3: 64}, 36: {3: 64}, 40: {4: 64}}
    assert method.schedule.at(3).cuts(64, 576, 40) == {3: 64}


@pytest.mark.parametrize(("keep", "mean"), [(192, 228), (128, 170), (64, 112)])
def test_the_rows_left_are_not_the_average(keep, mean):
    from tokenprune.schedule import mean_rows

    schedule = tokenprune.method("priortr").schedule
    assert mean_rows(schedule.cuts(keep, 576, 32), 576, 32) == pytest.approx(mean, abs=0.5)
    assert schedule.cuts(mean, 576, 32, "average")[3] == pytest.approx(keep, abs=1)


def test_the_defaults_are_those_of_the_official_code_for_llava():
    scorer = tokenprune.method("priortr").parts[0]
    assert (scorer.query, scorer.heads, scorer.last_row) == ("question", "mean", True)


def kept_by(model, inputs, **call):
    with tokenprune.apply(model, method=tokenprune.method("priortr", **call), keep=KEEP) as handle:
        model(**inputs)
        return [image.kept.tolist() for image in handle.last.images]


@pytest.mark.parametrize("options", [{}, {"query": "last"}, {"last_row": False}], ids=str)
def test_prompts_of_different_lengths_choose_as_they_do_alone(options):
    """One text row after an image, none, and several; two images in a row."""
    case = Case("llava")
    rows = [(3, "I", 5), (4, "I", 1), (6, "I"), (2, "I", 4, "I", 3), (1, "I", 2, "I"), (3, "I", 2)]
    inputs = tiny_models.llava_inputs(*rows)
    together = kept_by(case.model, inputs, **options)
    apart = [
        kept
        for row in range(len(rows))
        for kept in kept_by(case.model, tiny_models.cut_row(inputs, row), **options)
    ]
    assert together == apart


@pytest.mark.parametrize("row", [(6, "I"), (6, "I", 1)], ids=str)
def test_without_a_question_a_model_keeps_what_fastv_would(row):
    case, inputs = Case("llava"), tiny_models.llava_inputs(row)
    with tokenprune.apply(case.model, method="fastv", layer=1, keep=KEEP) as handle:
        case.model(**inputs)
        wanted = [image.kept.tolist() for image in handle.last.images]
    assert kept_by(case.model, inputs) == wanted
    assert kept_by(case.model, inputs, official=True) == [list(range(KEEP))]  # all scores are 0


def test_the_answer_is_no_part_of_the_question():
    case, prompt = Case("llava"), tiny_models.llava_inputs((3, "I", 5))
    alone = kept_by(case.model, prompt)
    for seed in range(3):
        answer = torch.randint(2, 89, (1, 6), generator=torch.Generator().manual_seed(seed))
        ids = torch.cat([prompt["input_ids"], answer], 1)
        labels = ids.clone()
        labels[:, :-6] = -100
        whole = {
            **prompt,
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": labels,
            "use_cache": False,
        }
        assert kept_by(case.model, whole) == alone
