# SPDX-License-Identifier: Apache-2.0
"""Methods with options in commands that measure several: `compare`, `calibrate`, `bench` and `demo`."""

import json

import pytest
from tokenprune_calibrate.calibration import calibrate, verify
from tokenprune_calibrate.collecting import Traffic
from tokenprune_calibrate.goal import Goal
from tokenprune_cli.app import app
from tokenprune_cli.compare import protocols
from tokenprune_cli.console.models import load_model
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.named_methods import method_named, plain_text, text_of
from tokenprune_evaluation.question_set import embedded_scenes
from tokenprune_evaluation.settings import Setting, key, known_method
from tokenprune_serving.load import check_contenders, make_load
from tokenprune_vllm.settings import Settings
from typer.testing import CliRunner

import tokenprune

DIRECTIONS = "zoo-prune,n_directions=2"


def test_options_are_those_of_the_method():
    method = method_named("zoo-prune, n_directions = 2")
    assert method.scorer == tokenprune.scorer("zoo", n_directions=2)
    assert method_named("fastv,layer=8").schedule.layers == (8,)
    assert method_named("fastv,layer=[4,8],trim_early_cache=true").trim_early_cache is True
    assert method_named("tower-diverse,at_least=0.25").at_least == 0.25
    assert method_named("divprune") == tokenprune.method("divprune")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("divprune", "divprune"),
        ("fastv, trim_early_cache=TRUE,layer=8", "fastv,layer=8,trim_early_cache=true"),
        ("fastv,layer=[4, 8]", "fastv,layer=[4,8]"),
        ("tower-diverse,at_least=.25", "tower-diverse,at_least=0.25"),
        ("scope,alpha=2.0", "scope,alpha=2"),
        ("otprune,gamma=1.0", "otprune,gamma=1"),
        ("fastv,layer=[3]", "fastv,layer=3"),
    ],
)
def test_equal_options_have_equal_texts(text, plain):
    assert plain_text(text) == plain == plain_text(plain) == known_method(text)


def test_values_are_written_as_they_are_read():
    assert text_of("m", {"c": {3: 66, 7: 30}, "b": [1, 2], "a": None}) == "m,a=none,b=[1,2],c={3:66,7:30}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fastw", "unknown method 'fastw'"),
        ("zoo-prune,draws=2", "method 'zoo-prune' has no option 'draws' here; it has "),
        ("zoo-prune,n_directions=few", "n_directions"),
        ("zoo-prune,n_directions", "options must have the form NAME,option=value"),
        ("zoo-prune,n_directions=2,n_directions=3", "'n_directions' is given twice"),
        ("zoo-prune,seed=1", "the seed of a method cannot be given here; use --seed"),
        ("divprune,layer=4", "method 'divprune' has no option 'layer' here"),
        ("fastv,budget=rows", "method 'fastv' has no option 'budget' here"),
        ("downsample,size=4", "unknown method 'downsample'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(text, said):
    with pytest.raises((BadInputError, tokenprune.TokenPruneError), match=said.replace("(", r"\(")):
        known_method(text)


@pytest.mark.parametrize("command", ["compare", "bench", "demo", "calibrate", "bench --engine vllm"])
def test_commands_refuse_before_any_work(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "--method", "zoo-prune,draws=2"]
    words += ["--max-disagreement", "0.5"] if command == "calibrate" else []
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "method 'zoo-prune' has no option 'draws' here" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_setting_prunes_with_the_options(untrained_model):
    setting = Setting(DIRECTIONS, 36)
    assert (setting.label, key(setting)) == (f"{DIRECTIONS}, 36 tokens", f"{DIRECTIONS} 36")
    with setting.applied(untrained_model[0], seed=3) as handle:
        assert handle.cuts[0].method.scorer == tokenprune.scorer("zoo", n_directions=2, seed=3)


def test_protocols_place_a_method_with_options(untrained_model):
    model, _ = untrained_model
    paper = protocols.setting("paper", "fastv,layer=8", 36, model)
    assert paper.options == protocols.setting("paper", "fastv", 36, model).options
    with paper.applied(model) as handle:
        assert handle.cuts[0].method.schedule.layers == (8,)
    assert protocols.saw_the_question("fastv,layer=8")


def test_compare_has_a_line_for_each_value(untrained, tmp_path):
    words = ["compare", "--scenes", "2", "--model", str(untrained), "--output", str(tmp_path), "--keep", "9"]
    words += ["--method", DIRECTIONS, "--method", "zoo-prune,n_directions=4", "--protocol", "paper"]
    done = CliRunner().invoke(app, [*words, "--max-new-tokens", "2", "--conversation", "--json"])
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    methods = [line["method"] for line in model["lines"]]
    assert methods == [None, DIRECTIONS, "zoo-prune,n_directions=4", "stride", "random", "downsample"]
    assert all(line["refused"] is None for line in model["lines"])
    report = (tmp_path / "report.html").read_text()
    assert DIRECTIONS in report


def test_bench_times_a_method_with_options(tmp_path):
    words = ["bench", "--preset", "micro", "--device", "cpu", "--batch", "1", "--json"]
    done = CliRunner().invoke(app, [*words, "--method", DIRECTIONS, "--method", "fastv,layer=2"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["amount"]["methods"] == [DIRECTIONS, "fastv,layer=2"] and record["skipped"] == {}
    rows = {run["name"]: run["visual_rows"] for run in record["runs"]}
    assert rows[DIRECTIONS] == [[0, 9]] and rows["fastv,layer=2"] == [[0, 36], [2, 9]]


def test_a_server_is_configured_with_the_options():
    load = make_load(methods=(DIRECTIONS,), keeps=(64,))
    assert load.contenders() == {
        f"{DIRECTIONS}, 64": {"method": "zoo-prune", "options": {"n_directions": 2}, "keep": 64}
    }
    check_contenders(load)
    method = Settings.parse(load.contenders()[f"{DIRECTIONS}, 64"]).method
    assert method.scorer == tokenprune.scorer("zoo", n_directions=2)


def test_a_certified_setting_has_the_options(tmp_path):
    model, processor = load_model(None)
    goal = Goal("disagreement", 0.9, 0.6, unit="question")
    traffic = Traffic(model, processor, embedded_scenes(4), batch=8)
    result = calibrate(traffic, goal, tmp_path / "first", methods=[DIRECTIONS], keeps=[144])
    assert result.record.chosen == {"method": DIRECTIONS, "keep": 144}
    arguments = result.setting.arguments
    assert (arguments["method"], arguments["options"]) == ("zoo-prune", {"n_directions": 2})
    with tokenprune.apply(model, **result.setting.apply_arguments()) as handle:
        assert handle.cuts[0].method.scorer == tokenprune.scorer("zoo", n_directions=2)
    again = verify(traffic, result.setting, tmp_path / "second")
    assert again.record.chosen == result.record.chosen
