# SPDX-License-Identifier: Apache-2.0
"""`tokenprune bench --engine vllm`: its load, its record and what it refuses; tests/vllm runs it."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenprune_cli.app import app
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation.records import read, to_dict
from tokenprune_evaluation.tower_cut import TowerCut
from tokenprune_serving import checkpoint, child
from tokenprune_serving.intervals import median_interval
from tokenprune_serving.load import Load, check_contenders, make_load
from tokenprune_serving.measure import check_memory, order, percentile, run_of
from tokenprune_serving.record import ServingRecord, with_ratios
from tokenprune_serving.table import SHORT, caption, table, tower_sentences
from typer.testing import CliRunner

RECORDS = Path(__file__).parents[2] / "docs/benchmarks"
GIB = 2**30


def test_percentiles_are_values_that_were_measured():
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [percentile(values, share) for share in (0.2, 0.5, 0.99, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert percentile([7.0], 0.5) == 7.0


@pytest.mark.parametrize(
    ("n", "interval"),
    [(1, None), (5, None), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (12, (3, 10)), (20, (6, 15))],
)
def test_intervals_of_medians_are_those_of_the_tables(n, interval):
    # the ranks that tables of the sign test give at the level 0.05
    assert median_interval([float(value) for value in range(n, 0, -1)]) == interval


def rounds(*seconds, requests=8):
    times = [0.1] * requests
    return [
        {"seconds": s, "first_token_seconds": times, "answer_seconds": times, "prompt_tokens": 97}
        for s in seconds
    ]


def test_contenders_are_compared_round_by_round_at_the_same_number_of_clients():
    runs = [
        run_of("no plugin", 1, rounds(2.0, 2.0, 2.0, 2.0, 2.0, 2.0, requests=1)),
        run_of("no plugin", 8, rounds(16.0, 8.0, 16.0, 16.0, 16.0, 16.0)),
        run_of("x, 64", 1, rounds(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, requests=1)),
        run_of("x, 64", 8, rounds(4.0, 2.0, 4.0, 4.0, 2.0, 3.2)),
        run_of("tower x, 64 @2", 8, rounds(3.2, 1.6, 2.0, 3.2, 1.6, 3.2)),
    ]
    none, none_8, after, after_8, inside = with_ratios(runs, {"tower x, 64 @2": "x, 64"})
    assert (none.requests_per_second, after.requests_per_second) == (0.5, 2.0)
    assert none_8.round_rates == (0.5, 1.0, 0.5, 0.5, 0.5, 0.5)
    assert (none.throughput_ratio, none.throughput_interval) == (1.0, None)
    assert (after.throughput_ratio, after.throughput_interval) == (4.0, (4.0, 4.0))
    # ratios by round: 4, 4, 4, 4, 8, 5
    assert (after_8.throughput_ratio, after_8.throughput_interval) == (4.0, (4.0, 8.0))
    assert (after_8.tower_ratio, after_8.tower_interval) == (None, None)
    # 5, 5, 8, 5, 10, 5 and, relative to the same method after the tower, 1.25, 1.25, 2, 1.25, 1.25, 1
    assert (inside.throughput_ratio, inside.throughput_interval) == (5.0, (5.0, 10.0))
    assert (inside.tower_ratio, inside.tower_interval) == (1.25, (1.0, 2.0))


def test_fewer_than_six_rounds_have_no_interval():
    runs = [run_of("no plugin", 8, rounds(16.0, 8.0)), run_of("x, 64", 8, rounds(4.0, 4.0))]
    _, pruned = with_ratios(runs, {})
    assert (pruned.throughput_ratio, pruned.throughput_interval) == (3.0, None)


def test_the_order_is_reversed_from_round_to_round():
    assert [list(order("abc", i)) for i in range(3)] == [list("abc"), list("cba"), list("abc")]


def test_the_default_load_has_a_method_after_the_tower_and_inside():
    load = make_load()
    assert load.contenders() == {
        "divprune, 64": {"method": "divprune", "keep": 64},
        "tower divprune, 64 @2": {"method": "divprune", "keep": 64, "stage": "vision", "layer": 2},
    }
    assert load.comparisons() == {"tower divprune, 64 @2": "divprune, 64"}
    assert (load.concurrency, load.requests, load.new_tokens, load.rounds) == ((1, 8), (1, 8), 1, 6)
    check_contenders(load)


def test_a_load_has_what_the_user_sets():
    load = make_load(methods=("zoo-exact",), keeps=(32,), clients=(2, 2), new_tokens=16, rounds=3)
    assert load == Load(("zoo-exact",), (32,), (2,), (8,), new_tokens=16, rounds=3)
    assert make_load(keeps=(32, 64)).tower_cuts == (TowerCut("divprune", 2, 32), TowerCut("divprune", 2, 64))
    assert make_load(methods=("random", "stride"), tower_cuts=((0, 64),)).tower_cuts == (
        TowerCut("random", 0, 64),
        TowerCut("stride", 0, 64),
    )


def test_the_tower_has_the_blocks_that_can_be_named():
    config = checkpoint.configuration()
    n_blocks = config.vision_config.num_hidden_layers + config.vision_feature_layer + 1
    assert n_blocks == checkpoint.N_TOWER_BLOCKS


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


def test_the_cache_holds_keys_and_values_of_each_layer():
    attention = checkpoint.configuration().text_config
    width = attention.num_key_value_heads * attention.hidden_size // attention.num_attention_heads
    assert checkpoint.cache_bytes(10) == 10 * attention.num_hidden_layers * 2 * width * 4


def test_prompts_have_a_picture_each_and_differ():
    one, two = child.prompts(2, text_tokens=32, seed=3)
    assert len(one["prompt_token_ids"]) == 34 and one["prompt_token_ids"].count(checkpoint.IMAGE) == 1
    pictures = [prompt["multi_modal_data"]["image"].tobytes() for prompt in (one, two)]
    assert pictures[0] != pictures[1] and one["prompt_token_ids"] != two["prompt_token_ids"]
    assert child.prompts(2, text_tokens=32, seed=3)[1]["prompt_token_ids"] == two["prompt_token_ids"]


def is_part(part, whole):
    """Whether a record holds every value of another, which may lack fields that came later."""
    if isinstance(part, dict):
        return all(is_part(value, whole[name]) for name, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(is_part, part, whole))
    return part == whole


@pytest.mark.parametrize("file", sorted(RECORDS.glob("vllm-*.json")), ids=lambda file: file.stem)
def test_committed_records_hold_what_they_conclude(file):
    record = read(ServingRecord, file)
    assert is_part(json.loads(file.read_text()), to_dict(record))
    for run in record.runs:
        assert run.first_token_p50 == percentile(run.first_token_seconds, 0.5)
        assert run.first_token_p99 == percentile(run.first_token_seconds, 0.99)
        assert len(run.round_rates) == (record.load.rounds if run.answer_seconds else 0)
    computed = {"throughput_ratio": float("nan"), "throughput_interval": None}
    computed |= {"tower_ratio": None, "tower_interval": None}
    bare = [dataclasses.replace(run, **computed) for run in record.runs]
    assert with_ratios(bare, record.load.comparisons()) == record.runs
    assert table(record).markdown().splitlines()[2].startswith("| no plugin | 1 | 609 |")


def test_the_table_fits_a_terminal_and_tells_the_intervals():
    record = read(ServingRecord, RECORDS / "vllm-cpu-tower.json")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(record, SHORT).rich())
    said = [line.strip() for line in console.export_text().splitlines()]
    assert [" ".join(line.split()) for line in said[2:]] == [" ".join(row) for row in table(record).rows]
    assert max(map(len, said)) <= 80
    inside = record.runs[-1]
    low, high = inside.throughput_interval
    assert table(record).rows[-1][4] == f"{inside.throughput_ratio:.2f}x ({low:.2f}-{high:.2f})"
    low, high = inside.tower_interval
    assert tower_sentences(record)[-1] == (
        f"tower divprune, 64 @2, 8 clients: {inside.tower_ratio:.2f}x ({low:.2f}-{high:.2f}) vs divprune, 64"
    )
    assert "median over 6 rounds (95 % interval). p50" in caption(record)
    older = read(ServingRecord, RECORDS / "vllm-cpu.json")
    assert tower_sentences(older) == [] and "median over 1 round. p50" in caption(older)
    assert table(older).rows[-1][4] == "4.19x"


def refused(*options):
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("tokenprune: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--preset", "micro"],
        ["--model", "x"],
        ["--random-weights"],
        ["--batch", "1"],
        ["--plot", "x.png"],
        ["--device", "cpu"],
        ["--dtype", "float32"],
    ],
    ids=lambda options: options[0],
)
def test_options_that_mean_nothing_in_vllm_are_refused(options):
    assert refused("--engine", "vllm", *options) == (
        f"{options[0]} cannot be used with --engine vllm; leave it out"
    )


def test_clients_are_those_of_a_server():
    expected = "--clients cannot be used with --engine transformers; leave it out"
    assert refused("--preset", "micro", "--clients", "2") == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "zoo-exakt"], "Did you mean 'zoo-exact'"),
        (["--method", "fastv"], "inside vLLM only methods that cut before the language model can be used"),
        (["--method", "cdpruner"], "needs the signal clip_patch_embeds, clip_text_embeds"),
        (["--method", "zoo-exact", "--tower-cut", "2:64"], "needs the signal projector"),
        (["--keep", "576"], "--keep 576 prunes nothing: images have 576 visual tokens"),
        (["--keep", "0"], "keep must be at least 1"),
        (["--tower-cut", "2"], "--tower-cut must be LAYER:N"),
        (["--tower-cut", "7:64"], "--tower-cut 7:64 does not name a block of the tower: they are 0 ... 6"),
        (["--tower-cut", "2:32"], "which is not measured; add --keep 32"),
        (["--new-tokens", "1", "--new-tokens", "2"], "--new-tokens takes a single length with --engine vllm"),
        (["--new-tokens", "416"], "--new-tokens 416 is too long: at most 415 fit the engines"),
        (["--output", "no/such/folder/x.json"], "the directory 'no/such/folder' does not exist"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    assert words in refused("--engine", "vllm", *options)


def test_without_vllm_nothing_is_begun(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("tokenprune_serving.checkpoint.save", lambda *_: pytest.fail("begun"))
    assert refused("--engine", "vllm") == (
        "vLLM is not installed; run pip install '.[vllm]' in a clone, or see docs/serving.md for machines "
        "without a GPU"
    )


def test_engines_that_do_not_fit_the_memory_are_refused():
    check_memory(make_load(), 12 * GIB)
    with pytest.raises(BadInputError, match=r"4 engines run beside each other and need about 12 GiB of"):
        check_memory(make_load(), 12 * GIB - 1)
