# SPDX-License-Identifier: Apache-2.0
"""`tokenprune check`: tables and JSON, exit codes, models of every kind, bad input."""

import json
from concurrent.futures.process import BrokenProcessPool

import pytest
import tiny_families
import tiny_models
import tiny_processors
import torch
from tokenprune_adapters.transformers.engine import Engine
from tokenprune_cli.app import app
from tokenprune_cli.check import running
from typer.testing import CliRunner

import tokenprune
from tokenprune.trial import PROMISES, Specimen

QUICK = ("--method", "divprune", "--method", "cdpruner")


def invoke(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


@pytest.fixture
def two_specimens(monkeypatch):
    """Of all adapters only LLaVA's specimen, and one whose package is not there."""
    registry = tokenprune.default_registry()
    for name in registry.names("adapter"):
        adapter = registry.find("adapter", name)
        mine = adapter.specimens() if name == "llava" else ()
        if name == "timm":
            mine = (Specimen("far-away", lambda: None, "no_such_package", "pip install no-such-package"),)
        monkeypatch.setattr(adapter, "specimens", classmethod(lambda cls, mine=mine: mine))


def test_tiny_models_as_json(two_specimens, tmp_path):
    threads = torch.get_num_threads()
    result = invoke(*QUICK, "--json", "--output", tmp_path / "check.json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert json.loads((tmp_path / "check.json").read_text()) == record
    assert (record["passed"], record["budget"]) == (True, "keep_ratio=0.5")
    assert {"tokenprune-vlm", "torch", "transformers"} <= record["versions"].keys()
    (model,) = record["models"]
    assert (model["name"], model["model"]) == ("llava", "LlavaForConditionalGeneration")
    assert (model["device"], model["dtype"], model["settings"]) == ("cpu", "float32", {"attention": "sdpa"})
    assert {(r["method"], r["promise"]) for r in model["records"]} == {
        *(("divprune", promise) for promise in PROMISES),
        ("cdpruner", "all"),
    }
    reason = "no_such_package is not installed: pip install no-such-package"
    assert record["left_out"] == [{"name": "far-away", "reason": reason}]
    assert torch.get_num_threads() == threads


def test_a_table_with_the_largest_differences(two_specimens):
    result = invoke(*QUICK)
    assert result.exit_code == 0, result.output
    assert all(promise in result.stdout for promise in PROMISES)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("divprune")]
    assert line.split()[1:3] == ["0", "0"] and all("e-0" in cell for cell in line.split()[3:6])
    assert "not applicable: cdpruner: the scorer 'relevance' needs" in result.stdout
    assert "not checked: far-away: no_such_package is not installed" in result.stdout
    assert "1.0e-03 in float32" in result.stdout
    assert "passed: all 5 checks on llava" in result.stdout


def test_the_tiny_models_of_some_families():
    record = json.loads(
        invoke("--family", "qwen2-vl", "--family", "llava", "--method", "stride", "--json").stdout
    )
    assert [model["name"] for model in record["models"]] == ["llava", "qwen2-vl"]
    assert record["passed"] and record["left_out"] == []


def test_a_broken_promise_ends_with_exit_code_1(two_specimens, monkeypatch):
    original = Engine._enter_language

    def wrong(self, module, args, kwargs):
        args, kwargs = original(self, module, args, kwargs)
        return args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * (1 + 1e-6)}

    monkeypatch.setattr(Engine, "_enter_language", wrong)
    result = invoke("--method", "stride")
    assert result.exit_code == 1
    assert "FAILED: llava: identity with stride" in result.stdout
    assert "FAILED: 1 of 5 checks on llava" in result.stdout
    assert json.loads(invoke("--method", "stride", "--json").stdout)["passed"] is False


def test_a_tiny_model_that_is_refused_counts_as_broken(two_specimens, monkeypatch):
    def refuse(self):
        raise tokenprune.UnsupportedModelError("something of transformers was renamed")

    adapter = tokenprune.default_registry().find("adapter", "llava")
    monkeypatch.setattr(adapter, "check_model", refuse)
    result = invoke("--method", "stride")
    assert result.exit_code == 1
    assert "something of transformers was renamed" in result.stdout


def test_tiny_models_are_checked_by_as_many_processes_as_pay_off(monkeypatch):
    monkeypatch.setattr(running.os, "cpu_count", lambda: 16)
    assert [running.n_processes("cpu", n) for n in (0, 1, 7, 8, 12, 40)] == [1, 1, 1, 2, 3, 4]
    assert running.n_processes("cuda", 40) == 1
    monkeypatch.setattr(running.os, "cpu_count", lambda: None)
    assert running.n_processes("cpu", 40) == 1


def test_a_process_that_dies_is_one_sentence(monkeypatch):
    class Pool:
        def __init__(self, *arguments):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, *arguments):
            raise BrokenProcessPool

    monkeypatch.setattr(running, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(running, "n_processes", lambda *_: 2)
    result = invoke("--method", "stride")
    assert result.exit_code == 2
    assert result.stderr.startswith("tokenprune: a process that was checking tiny models has died")


def test_a_method_that_runs_on_some_models_only(monkeypatch):
    monkeypatch.setattr(tokenprune.default_registry().find("adapter", "generic"), "specimens", lambda: ())
    record = json.loads(invoke("--method", "visionzip", "--json").stdout)
    ran = {model["name"]: model["passed"] for model in record["models"]}
    assert record["passed"] and ran["llava"] and not ran["qwen2-vl"]
    assert "FAILED" not in (result := invoke("--method", "visionzip")).stdout and result.exit_code == 0
    assert f"on {sum(ran.values())} models" in result.stdout


def test_precision_and_attention_of_the_tiny_models(two_specimens):
    record = json.loads(invoke(*QUICK, "--dtype", "bfloat16", "--attn", "eager", "--json").stdout)
    (model,) = record["models"]
    broken = [one for one in model["records"] if one["outcome"] == "failed"]
    assert (model["dtype"], model["settings"], broken) == ("bfloat16", {"attention": "eager"}, [])


def saved(model, processor, folder):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen"])
def test_a_saved_model_through_its_own_processor(family, tmp_path):
    model, processor = getattr(tiny_models, family)(), getattr(tiny_processors, family)()
    folder = saved(model, processor, tmp_path / family)
    result = invoke("--model", folder, "--method", "divprune", "--method", "fastv", "--keep", 5, "--json")
    assert result.exit_code == 0, result.output + result.stderr
    (found,) = json.loads(result.stdout)["models"]
    assert (found["name"], found["budget"], found["passed"]) == (family, "keep=5", True)
    assert len(found["records"]) == 10


@pytest.mark.parametrize("name", [*tiny_families.CLASSES])
def test_a_saved_model_of_every_other_family_without_a_processor(name, tmp_path, monkeypatch):
    """Loaded from its files as users load theirs; the inputs are the adapter's own."""
    model = tiny_families.build(name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    settings = running.Settings(["divprune"], tokenprune.Budget(keep_ratio=0.5), 0)
    check = settings.check(loaded)
    assert check.passed, str(check)
    assert check.model == tiny_families.CLASSES[name][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keep", "4"], "--keep goes with --model"),
        (["--model", "embedded", "--family", "llava"], "give either it or --model"),
        (["--family", "lava"], "no tiny model of this name. Did you mean llava?"),
        (["--family", "xyz"], "no tiny model of this name. There are: llava, far-away"),
        (["--family", "far-away"], "no_such_package is not installed: pip install no-such-package"),
        (["--keep-ratio", "0"], "keep_ratio must lie in (0, 1], got 0"),
        (["--keep-ratio", "1"], "leaves all"),
        (["--model", "embedded", "--keep", "0"], "keep must be at least 1"),
        (["--model", "embedded", "--keep", "4", "--keep-ratio", "0.5"], "got both"),
        (["--method", "divprun"], "unknown method 'divprun'. Did you mean 'divprune'"),
        (["--model", "./nowhere"], "there is no such directory"),
        (["--trust-remote-code"], "--trust-remote-code goes with --model"),
        (["--attn", "sideways"], "--attn sideways: "),
        (["--model", "embedded", "--attn", "sideways"], "the embedded model does not load: "),
        (["--output", "no/such/dir/x.json"], "the directory 'no/such/dir' does not exist"),
    ],
)
def test_bad_input_is_one_sentence(two_specimens, arguments, said):
    more = [] if "--method" in arguments else ["--method", "stride"]
    result = invoke(*arguments, *more)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = [line for line in result.stderr.strip().splitlines() if line]
    assert line.startswith("tokenprune: ") and said in line


def test_no_gpu_is_said(two_specimens, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("--device", "cuda")
    assert result.exit_code == 2 and "no usable NVIDIA GPU" in result.stderr


def test_out_of_memory_is_said(two_specimens, monkeypatch):
    def grow(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(running, "check_model", grow)
    result = invoke()
    assert result.exit_code == 2 and "does not fit into memory: CUDA out of memory" in result.stderr
