# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a micro model: what it records and how its figures hang together; never a time."""

import dataclasses
import io
import json
from pathlib import Path
from statistics import median

import pytest
import torch
from blocks.speed_goals import goals
from rich.console import Console
from tokenprune_cli.app import app
from tokenprune_cli.bench import models, oracle, record
from tokenprune_cli.bench.presets import PRESETS
from tokenprune_cli.bench.record import BenchRecord
from tokenprune_cli.bench.table import full_table, terminal_tables
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.records import from_dict, read, to_dict
from typer.testing import CliRunner

METHODS = ("zoo-exact", "divprune", "visionzip", "fastv", "zoo-prune")
TEXT, VISUAL = 12, 36


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The JSON of one run, from stdout and from the file."""
    path = tmp_path_factory.mktemp("bench") / "micro.json"
    options = ["--preset", "micro", "--device", "cpu", "--output", str(path), "--json"]
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text()) == json.loads(result.stdout)
    return json.loads(result.stdout)


def filled_in(older, newer):
    """The values of the newer record for what the older one has."""
    if isinstance(older, dict):
        return {name: filled_in(older[name], newer[name]) for name in older}
    if isinstance(older, list):
        return [filled_in(*pair) for pair in zip(older, newer, strict=True)]
    return newer


def runs(found, **wanted):
    return [run for run in found["runs"] if all(run[k] == v for k, v in wanted.items())]


def test_every_contender_runs_at_every_batch_size(found):
    for batch in (1, 2):
        names = [run["name"] for run in runs(found, batch=batch)]
        assert names == ["unpruned", "downsample", *METHODS, "oracle", "oracle"]
    assert found["skipped"] == {}
    assert (found["model"]["visual_tokens"], found["model"]["text_tokens"]) == (VISUAL, TEXT)


def test_machine_versions_and_the_way_of_picking_are_recorded(found):
    assert found["picking"] == {"path": "numpy", "why": "no NVIDIA GPU in use"}
    assert set(found["versions"]) == {"python", "tokenprune-vlm", "torch", "transformers"}
    assert set(found["machine"]) == {"system", "architecture", "cores", "threads", "processor", "gpu"}


def test_a_record_is_read_as_it_was_written(found):
    assert to_dict(from_dict(BenchRecord, found)) == found
    file = Path(__file__).parents[2] / "docs/benchmarks/cpu-small.json"
    older = json.loads(file.read_text())  # without the fields that were added later
    assert filled_in(older, to_dict(read(BenchRecord, file))) == older


def test_parts_add_up_and_summaries_can_be_computed_again(found):
    for run in found["runs"]:
        for values in run["seconds"].values():
            samples = values["samples"]
            assert values["median"] == median(samples)
            assert (values["low"], values["high"]) == (min(samples), max(samples))
        parts = {part: run["seconds"][part]["samples"] for part in ("tower", "language", "prefill")}
        for tower, language, prefill in zip(*parts.values(), strict=True):
            assert tower + language == pytest.approx(prefill, rel=2e-3)
        assert len(parts["prefill"]) == (2 if run["batch"] == 2 else 4)
        assert len(run["seconds"]["end_to_end_3"]["samples"]) == 1


def test_ratios_can_be_computed_again(found):
    checked = 0
    for run in found["runs"]:
        for name, parts in run["ratios"].items():
            (other,) = [
                one
                for one in runs(found, batch=run["batch"], name=name)
                if name != "oracle" or one["visual_rows"] == run["visual_rows"]
            ]
            for part, value in parts.items():
                pairs = zip(run["seconds"][part]["samples"], other["seconds"][part]["samples"], strict=True)
                assert value == pytest.approx(median(a / b for a, b in pairs), abs=1e-4)
                checked += 1
    assert checked > 100


def test_what_is_compared_with_what(found):
    for run in found["runs"]:
        names = set(run["ratios"])
        if run["name"] == "unpruned":
            assert names == set()
        elif run["name"] in ("downsample", "oracle"):
            assert names == {"unpruned"} | ({"downsample"} if run["name"] == "oracle" else set())
        else:
            assert names == {"unpruned", "downsample", "oracle"}


def test_rows_caches_and_operations_are_those_of_what_is_kept(found):
    text = PRESETS["micro"].config().text_config
    slot = 2 * text.hidden_size * 4  # keys and values of a layer's row, in bytes
    for run in found["runs"]:
        by_layer = oracle.rows_by_layer([tuple(pair) for pair in run["visual_rows"]], 4)
        assert run["kv_bytes"] == run["batch"] * slot * sum(TEXT + n for n in by_layer)
        formula = sum(4 * n * 64**2 + 2 * n**2 * 64 + 2 * n * 64 * 96 for n in by_layer)
        assert run["flops_formula"] == run["batch"] * formula
    (dense,) = runs(found, batch=1, name="unpruned")
    assert dense["visual_rows"] == [[0, VISUAL]]
    for run in runs(found, batch=1):
        if run["name"] in ("zoo-exact", "divprune", "visionzip", "downsample"):
            assert run["visual_rows"] == [[0, 9]]
    (fastv,) = runs(found, batch=2, name="fastv")
    assert fastv["visual_rows"] == [[0, VISUAL], [1, 9]]


def test_the_oracle_does_the_arithmetic_of_the_unpruned_model_on_fewer_rows(found):
    (dense,) = runs(found, batch=1, name="unpruned")
    text = PRESETS["micro"].config().text_config
    tower = dense["flops_counted"] - prefill_flops(text, TEXT + VISUAL)
    for run in runs(found, batch=1, name="oracle"):
        by_layer = oracle.rows_by_layer([tuple(pair) for pair in run["visual_rows"]], 4)
        expected = tower + prefill_flops(text, [TEXT + n for n in by_layer])
        assert run["flops_counted"] == expected
    for run in runs(found, batch=1):
        if "oracle" in run["ratios"]:
            (own,) = [
                o for o in runs(found, batch=1, name="oracle") if o["visual_rows"] == run["visual_rows"]
            ]
            assert run["flops_counted"] >= own["flops_counted"]


def test_tables_have_a_cell_for_each_heading(found):
    text = full_table(from_dict(BenchRecord, found)).markdown()
    assert len(text.splitlines()) == 2 + len(found["runs"])
    assert "oracle, 9 @1" in text


def test_the_terminal_tables_fit_80_columns_and_hold_every_column(found):
    shown, record = [], from_dict(BenchRecord, found)
    for table in terminal_tables(record):
        console = Console(width=80, file=io.StringIO())
        console.print(table.rich())
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
        shown += [head.replace("\n", " ") for head in table.heads][2:]
        assert len(table.rows) == len(found["runs"])
    assert sorted(shown) == sorted(full_table(record).heads[2:])


def test_goals_are_read_off_the_ratios(found):
    made = json.loads(json.dumps(found))
    for run in made["runs"]:
        for parts in run["ratios"].values():
            parts["prefill"] = 1.04 if run["name"] == "zoo-exact" else 1.2
    reached = [(goal.kind, goal.figures["name"], goal.figures["batch"], goal.reached) for goal in goals(made)]
    assert len(reached) == 2 * 4 + 2
    for batch in (1, 2):
        assert ("overhead", "zoo-exact", batch, True) in reached
        assert ("overhead", "fastv", batch, False) in reached
        assert [r[3] for r in reached if r[0] == "no slower" and r[2] == batch] == [False]


def test_the_papers_formula_by_hand():
    config = dataclasses.make_dataclass("C", ["hidden_size", "intermediate_size", "num_hidden_layers"])
    # 3 layers, d = 2, m = 5: 10 rows in the first, 4 in the others
    first, other = 4 * 10 * 4 + 2 * 100 * 2 + 2 * 10 * 10, 4 * 4 * 4 + 2 * 16 * 2 + 2 * 4 * 10
    assert record.formula_flops(config(2, 5, 3), ((0, 10), (1, 4))) == first + 2 * other


def test_a_model_that_does_not_fit_says_how_much_it_needs(monkeypatch):
    config = PRESETS["micro"].config()
    need = models.needed_bytes(config, 4, 2, 50)
    assert need["cache"] == 2 * 50 * 4 * 2 * 64 * 4
    monkeypatch.setattr(models, "free_bytes", lambda device: sum(need.values()) - 1)
    with pytest.raises(BadInputError, match=r"does not fit: about 0\.0 GiB are needed at batch size 2"):
        models.check_fit(config, torch.device("cpu"), 4, 2, 50)
    monkeypatch.setattr(models, "free_bytes", lambda device: sum(need.values()))
    models.check_fit(config, torch.device("cpu"), 4, 2, 50)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "micro"])
def test_presets_have_the_sizes_they_name(name):
    config = PRESETS[name].config()
    millions = models.n_parameters(config) / 1e6
    sizes = {"cpu-small": (280, 320), "cpu-tower": (280, 320), "cpu-tower-qwen": (210, 230)}
    low, high = {**sizes, "qwen2.5-vl-7b": (7600, 8400)}.get(name, (6900, 7200))
    assert low < millions < high
    tokens = {"llava-next-7b": 2880, "qwen2.5-vl-7b": 1296, "cpu-tower-qwen": 1334}.get(name, 576)
    assert models.visual_tokens(config, PRESETS[name].amount.picture) == tokens


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "large"], "there is no preset 'large'; presets: micro, cpu-small"),
        (["--preset", "micro", "--model", "x"], "give either --preset or --model, not both"),
        (["--preset", "micro", "--method", "zoo-prun"], "unknown method 'zoo-prun'"),
        (["--preset", "micro", "--keep", "0"], "keep must be at least 1"),
        (["--model", "./nowhere/at/all"], "the model './nowhere/at/all' does not load"),
        (
            ["--preset", "micro", "--output", "no/such/folder/x.json"],
            "the directory 'no/such/folder' does not",
        ),
    ],
)
def test_bad_input_is_one_sentence(options, said):
    result = CliRunner().invoke(app, ["bench", *options])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert said in result.stderr and "Traceback" not in result.stderr


def test_a_directory_without_a_model_is_named_as_run_names_it(tmp_path):
    result = CliRunner().invoke(app, ["bench", "--model", str(tmp_path)])
    assert result.exit_code == 2
    said = f"the model '{tmp_path}' does not load: the directory holds no config.json"
    assert said in result.stderr


def test_a_configuration_that_does_not_load_or_is_of_another_kind_is_named_as_run_names_it(tmp_path):
    for text, said in (
        ("{", "does not load: "),
        ('{"model_type": "bert"}', "is of type 'bert', which is no image-and-text chat model"),
    ):
        (tmp_path / "config.json").write_text(text)
        for command in (["bench"], ["compare", "--scenes", "2", "--output", str(tmp_path / "out")]):
            result = CliRunner().invoke(app, [*command, "--model", str(tmp_path)])
            assert result.exit_code == 2 and result.stdout == ""
            assert f"the model '{tmp_path}' {said}" in result.stderr


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "--preset", "micro", "--device", "cuda"])
    assert result.exit_code == 2
    assert "PyTorch finds no usable NVIDIA GPU on this machine" in result.stderr


def test_a_stored_model_is_measured_by_its_name(untrained):
    options = ["--model", str(untrained), "--random-weights", "--method", "divprune", "--keep", "16"]
    few = ["--batch", "1", "--new-tokens", "1", "--repeats", "1", "--json"]
    result = CliRunner().invoke(app, ["bench", *options, *few])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["model"]["name"], made["model"]["random_weights"]) == (untrained.name, True)
    assert [run["name"] for run in made["runs"]] == ["unpruned", "downsample", "divprune", "oracle"]
    assert str(untrained.parent) not in json.dumps({**made, "command": ""})


def test_the_plot_draws_a_bar_for_each_contender(found, tmp_path):
    from tokenprune_cli.bench.plot import save_plot

    save_plot(from_dict(BenchRecord, found), tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
