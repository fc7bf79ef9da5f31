# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end, with an untrained model: everything but the accuracy is as it will be."""

import json

import pytest
from PIL import Image
from tokenprune_cli.app import app
from typer.testing import CliRunner

OPTIONS = ["--scenes", "2", "--method", "zoo-exact", "--method", "random", "--keep", "9", "--keep", "36"]
PICTURES = ["zoo-exact.png", "random.png", "all-methods-36-tokens.png", "all-methods-9-tokens.png"]


def demo(untrained, output, *more):
    arguments = ["demo", "--model", untrained, "--output", output, *OPTIONS, *more]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def done(untrained, tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "made" / "for-it"
    return output, demo(untrained, output, "--json")


def test_json_is_all_there_is_on_stdout(done):
    output, result = done
    record = json.loads(result.stdout)
    assert json.loads((output / "demo.json").read_text()) == record
    assert [(line["method"], line["keep"]) for line in record["lines"]] == [
        (None, None),
        ("zoo-exact", 36),
        ("random", 36),
        ("zoo-exact", 9),
        ("random", 9),
    ]
    assert [line["visual_rows"]["mean"] for line in record["lines"]] == [144, 36, 36, 9, 9]
    assert (record["pictures"], record["files"]) == (2, PICTURES)
    assert record["command"] == (
        "tokenprune demo --method zoo-exact --method random --keep 9 --keep 36 --scenes 2"
    )


def test_costs_fall_with_the_budget(done):
    lines = json.loads(done[1].stdout)["lines"]
    memory, operations = [line["kv_bytes"] for line in lines], [line["flops"]["language"] for line in lines]
    for unpruned, quarter, _, sixteenth, _ in (memory, operations):
        assert unpruned > quarter > sixteenth > 0
    # 12 layers of keys and values, 128 float32 numbers wide: what each dropped token saves
    assert memory[0] - memory[1] == (144 - 36) * 12 * 2 * 128 * 4


def test_pictures_are_drawn(done):
    output, _ = done
    for name in PICTURES:
        with Image.open(output / name) as picture:
            assert picture.width > 300 and picture.height > 300
    assert {path.name for path in output.iterdir()} == {*PICTURES, "demo.json"}


def test_for_people_there_is_a_table_and_a_verdict(untrained, tmp_path, done):
    text = demo(untrained, tmp_path, "--method", "cdpruner").stdout
    flat = " ".join(text.split())
    record = json.loads(done[1].stdout)
    assert "unpruned 144" in flat and "zoo-exact 36" in flat and "random 9" in flat
    assert all(sentence in flat for sentence in record["conclusions"])
    assert record["closing_line"] in flat
    assert "cdpruner cannot be used on this model: the scorer" in flat
    assert "KV M" in flat and "kB FLOP" in flat
    assert "demo.json" in flat


def test_the_same_command_gives_the_same_results(untrained, tmp_path, done):
    again = json.loads(demo(untrained, tmp_path, "--json").stdout)
    assert again == json.loads(done[1].stdout)


def test_downsampling_takes_part(untrained, tmp_path):
    result = CliRunner().invoke(
        app,
        [str(a) for a in ("demo", "--model", untrained, "--output", tmp_path, "--json", "--scenes", "1")]
        + ["--method", "downsample", "--method", "random", "--keep", "18"],
    )
    assert result.exit_code == 0, result.output
    unpruned, smaller, pruned = json.loads(result.stdout)["lines"]
    assert [(line["method"], line["visual_rows"]["mean"]) for line in (unpruned, smaller, pruned)] == [
        (None, 144),
        ("downsample", 16),
        ("random", 18),
    ]
    assert smaller["kv_bytes"] < pruned["kv_bytes"]
    assert smaller["flops"]["language"] < pruned["flops"]["language"]
