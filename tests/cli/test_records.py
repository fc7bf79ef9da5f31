# SPDX-License-Identifier: Apache-2.0
"""Records: the JSON codec, and the sentence that says how a record was made."""

import json
import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenprune_evaluation.records import Machine, Provenance, RecordError, dumps, from_dict, read, to_dict

RECORDS = Path(__file__).parents[2] / "docs/benchmarks"


@dataclass(frozen=True)
class Inner:
    value: float
    low: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    pairs: tuple[tuple[int, str], ...]
    inner: dict[str, Inner]
    extra: Any = None
    many: list[Inner] | None = None


WHOLE = Outer("x", ((1, "a"), (2, "b")), {"k": Inner(0.5)}, {"any": [1]}, [Inner(1.0, 0.5)])
PLAIN = {
    "name": "x",
    "pairs": [[1, "a"], [2, "b"]],
    "inner": {"k": {"value": 0.5, "low": None}},
    "extra": {"any": [1]},
    "many": [{"value": 1.0, "low": 0.5}],
}


def test_dataclasses_become_dictionaries_and_back(tmp_path):
    assert to_dict(WHOLE) == PLAIN
    assert from_dict(Outer, PLAIN) == WHOLE
    (tmp_path / "x.json").write_text(dumps(WHOLE))
    assert read(Outer, tmp_path / "x.json") == WHOLE
    assert from_dict(Outer, {"name": "x", "pairs": [], "inner": {}}) == Outer("x", (), {})


def test_numbers_that_are_none_in_json():
    assert json.loads(dumps(Inner(math.nan, math.inf))) == {"value": None, "low": None}
    again = from_dict(Inner, {"value": None, "low": None})
    assert math.isnan(again.value) and again.low is None
    assert from_dict(Inner, {"value": 2}) == Inner(2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "unknown field 'colour'; fields: name, pairs, inner, extra, many"),
        ({"inner": {"k": {"value": 1.0, "lwo": 1}}}, "unknown field 'inner.k.lwo'; fields: value, low"),
        ({"inner": {"k": {}}}, "the field 'inner.k.value' is missing"),
        ({"name": 3}, "'name' cannot be 3"),
        ({"pairs": [[1, "a"], [True, "b"]]}, r"'pairs\[1\]\[0\]' cannot be true"),
        ({"pairs": [[1]]}, r"pairs\[0\] has 1 values instead of 2"),
        ({"many": [[1]]}, r"'many\[0\]' cannot be \[1\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(change, said):
    with pytest.raises(RecordError, match=said):
        from_dict(Outer, PLAIN | change)


def test_the_sentence_of_provenance():
    machine = Machine("Linux", "x86_64", 2, 1, "AMD EPYC")
    versions = {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0"}
    assert Provenance("tokenprune demo", machine, versions).sentence() == (
        "Measured with `tokenprune demo` on 1 of 2 cores (AMD EPYC, x86_64, Linux), Python 3.11.7, "
        "PyTorch 2.15.0, timm 1.0."
    )
    assert str(Machine("Linux", "x86_64", 2, 2)) == "2 cores (x86_64, Linux)"
    assert str(Machine("Linux", "x86_64", 16, 8, "AMD EPYC", "NVIDIA H200")) == "NVIDIA H200 (x86_64, Linux)"


def test_here_states_this_process(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "bench", "--output", "a b.json"])
    here = Provenance.here(torch.device("cpu"), "pluggy", "no-such-distribution")
    assert here.command == "tokenprune bench --output 'a b.json'"
    assert list(here.versions) == ["python", "tokenprune-vlm", "torch", "transformers", "pluggy"]
    assert here.versions["torch"] == version("torch")
    assert here.machine.threads == torch.get_num_threads() and here.machine.gpu is None
    assert Provenance.here(program="python -m benchmarks.x").command.startswith(
        "python -m benchmarks.x bench"
    )
    assert Provenance.here(command="tokenprune demo").command == "tokenprune demo"


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*.json")), ids=lambda file: file.stem)
def test_provenance_is_read_from_every_committed_record(file):
    record = json.loads(file.read_text())
    if "machine" in record:
        made = Provenance.of(record)
        assert made.versions == record["versions"] and made.command == record["command"]
        assert to_dict(made)["machine"].items() >= record["machine"].items()
        assert made.sentence().startswith(f"Measured with `{record['command']}` on ")
