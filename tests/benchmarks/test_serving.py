# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.serving`: everything about it but vLLM's run, which tests/vllm has."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation.records import read, to_dict
from typer.testing import CliRunner

from benchmarks.serving import checkpoint, child
from benchmarks.serving.__main__ import app
from benchmarks.serving.measure import check_contenders, last_words, percentile
from benchmarks.serving.record import SHORT, Load, Run, ServingRecord, table, with_ratios

RECORDS = Path(__file__).parents[2] / "docs/benchmarks"


def test_percentiles_are_values_that_were_measured():
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [percentile(values, share) for share in (0.2, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert percentile([7.0], 0.5) == 7.0


def test_throughput_is_compared_at_the_same_number_of_clients():
    runs = [
        Run(name, clients, 9, speed, 0.1, 0.2, (0.1, 0.2))
        for name, clients, speed in (
            ("no plugin", 1, 2.0),
            ("no plugin", 8, 4.0),
            ("x", 8, 14.0),
            ("x", 1, 5.0),
        )
    ]
    assert [run.throughput_ratio for run in with_ratios(runs)] == [1.0, 1.0, 3.5, 2.5]


def test_the_tower_can_be_cut_at_each_of_its_blocks():
    load = Load(methods=("divprune",), keeps=(64, 32), tower_layers=(2,))
    assert load.contenders() == {
        "divprune, 64": {"method": "divprune", "keep": 64},
        "divprune, 32": {"method": "divprune", "keep": 32},
        "tower divprune, 64 @2": {"method": "divprune", "keep": 64, "stage": "vision", "layer": 2},
        "tower divprune, 32 @2": {"method": "divprune", "keep": 32, "stage": "vision", "layer": 2},
    }
    config = checkpoint.configuration()
    n_blocks = config.vision_config.num_hidden_layers + config.vision_feature_layer + 1
    assert n_blocks == checkpoint.N_TOWER_BLOCKS
    check_contenders(load)
    with pytest.raises(BadInputError, match="--tower-layer 7 is not a block of the tower: they are 0 ... 6"):
        check_contenders(dataclasses.replace(load, tower_layers=(7,)))


def test_the_model_has_about_150_million_parameters_and_576_visual_tokens():
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(checkpoint.configuration())
    total = sum(weight.numel() for weight in model.parameters())
    assert 140e6 < total < 160e6
    tower = sum(weight.numel() for weight in model.model.vision_tower.parameters())
    assert 0.03 < tower / total < 0.06  # LLaVA-1.5-7B: 0.30 of 7.06 thousand million
    vision = model.config.vision_config
    assert (vision.image_size // vision.patch_size) ** 2 == 576


def test_prompts_have_a_picture_each_and_differ():
    one, two = child.prompts(2, text_tokens=32, seed=3)
    assert len(one["prompt_token_ids"]) == 34 and one["prompt_token_ids"].count(checkpoint.IMAGE) == 1
    pictures = [prompt["multi_modal_data"]["image"].tobytes() for prompt in (one, two)]
    assert pictures[0] != pictures[1] and one["prompt_token_ids"] != two["prompt_token_ids"]
    assert child.prompts(2, text_tokens=32, seed=3)[1]["prompt_token_ids"] == two["prompt_token_ids"]


@pytest.mark.parametrize("file", sorted(RECORDS.glob("vllm-*.json")), ids=lambda file: file.stem)
def test_committed_records_hold_what_they_conclude(file):
    record = read(ServingRecord, file)
    assert to_dict(record) == json.loads(file.read_text())
    for run in record.runs:
        assert run.first_token_p50 == percentile(run.first_token_seconds, 0.5)
        assert run.first_token_p99 == percentile(run.first_token_seconds, 0.99)
    bare = [dataclasses.replace(run, throughput_ratio=float("nan")) for run in record.runs]
    assert with_ratios(bare) == record.runs
    text = table(record).markdown()
    assert text in (RECORDS.parent / "serving.md").read_text()
    assert text.splitlines()[2].startswith("| no plugin | 1 | 609 |")


def test_the_table_fits_a_terminal():
    record = read(ServingRecord, RECORDS / "vllm-cpu.json")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(record, SHORT).rich())
    said = [line.strip() for line in console.export_text().splitlines()]
    assert [" ".join(line.split()) for line in said[2:]] == [" ".join(row) for row in table(record).rows]
    assert max(map(len, said)) <= 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "zoo-exakt"], "Did you mean 'zoo-exact'"),
        (["--method", "fastv"], "inside vLLM only methods that cut before the language model can be used"),
        (["--keep", "576"], "--keep 576 prunes nothing: images have 576 visual tokens"),
        ([], "vLLM is not installed"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2 and words in done.output


def test_of_an_engines_last_words_ours_count():
    assert (
        last_words("a\ntokenprune: keep is too large\nTypeError: None\n") == "tokenprune: keep is too large"
    )
    assert last_words("a\nTypeError: None\n") == "TypeError: None"
    assert last_words("") == "no message"
