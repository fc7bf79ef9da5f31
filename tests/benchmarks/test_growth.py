# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.growth`: its record, and that it notices what is left behind."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def growth():
    return importlib.import_module("benchmarks.growth")


def run(growth, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["growth.py", *map(str, arguments)])
    monkeypatch.setattr(growth, "WARM_UP", 2)
    with pytest.raises(SystemExit) as ended:
        growth.main()
    return ended.value.code


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_nothing_grows(tmp_path):
    """In a process of its own: tensors of other tests in this one may go while it counts."""
    out = tmp_path / "growth.json"
    methods = ("zoo-exact", "fastv", "cdpruner")
    code = "import benchmarks.growth as growth; growth.WARM_UP = 2; growth.main()"
    arguments = ["--cycles", "3", "--out", str(out), "--methods", *methods]
    assert subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=False).returncode == 0
    record = json.loads(out.read_text())
    assert [run["method"] for run in record["runs"]] == ["zoo-exact", "fastv"]
    for measured in record["runs"]:
        for what in ("apply_and_remove", "generate"):
            before, after = measured[what]["before"], measured[what]["after"]
            assert {name: after[name] for name in ("tensors", "hooks", "functions")} == {
                name: before[name] for name in ("tensors", "hooks", "functions")
            }
    assert "clip_patch_embeds" in record["refused"]["cdpruner"]


def test_what_is_left_behind_is_noticed(growth):
    model, kept = torch.nn.Linear(2, 2), []

    def leak():
        kept.append(torch.zeros(1))
        model.register_forward_hook(lambda module, args, output: None)

    assert growth.grew(growth.repeated(model, 5, leak))[:2] == ["tensors", "hooks"]
    assert growth.grew(growth.repeated(model, 5, lambda: None)) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cycles", 0), "--cycles must be at least 1, got 0"),
        (("--methods", "no-such"), "unknown method no-such"),
    ],
)
def test_bad_arguments_end_with_a_sentence(growth, monkeypatch, tmp_path, capsys, arguments, said):
    assert run(growth, monkeypatch, "--out", tmp_path / "growth.json", *arguments) == 2
    assert said in capsys.readouterr().err
