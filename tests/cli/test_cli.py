# SPDX-License-Identifier: Apache-2.0
"""The commands list, plugins and run; their JSON is stdout and nothing else."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from PIL import Image
from tokenprune_cli.app import app
from tokenprune_cli.commands import plugins as plugins_command
from tokenprune_visualize.drawing import PICTURE_SIDE
from typer.testing import CliRunner

import tokenprune


def invoke(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_help_loads_no_heavy_module():
    heavy = ("torch", "transformers", "numpy", "matplotlib", "jinja2", "PIL")
    code = f"import sys, tokenprune_cli.app\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command():
    text = invoke("--help").output
    assert all(command in text for command in ("demo", "run", "list", "plugins"))


@pytest.mark.parametrize("command", [None, *(command.name for command in app.registered_commands)])
def test_help_shows_flags_without_a_type(command):
    text = invoke(*filter(None, [command]), "--help").stdout
    assert "--help" in text and "bool" not in text


def test_the_console_script_and_the_module_are_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "tokenprune_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"tokenprune-vlm {version('tokenprune-vlm')}\n"
    assert invoke("--version").stdout == done.stdout


@pytest.mark.parametrize("kind", ["methods", "scorers", "selectors", "reducers", "adapters"])
def test_list_gives_every_name(kind):
    names = getattr(tokenprune, f"list_{kind}")()
    found = json.loads(invoke("list", kind, "--json").stdout)
    assert [entry["name"] for entry in found[kind]] == names
    assert all(entry["about"] and entry["distribution"] == "tokenprune-vlm" for entry in found[kind])
    text = invoke("list", kind).stdout
    assert all(name in text for name in names)


def test_list_without_a_kind_gives_all_kinds_and_takes_the_singular():
    everything = json.loads(invoke("list", "--json").stdout)
    assert list(everything) == ["methods", "scorers", "selectors", "reducers", "adapters"]
    assert json.loads(invoke("list", "method", "--json").stdout) == {"methods": everything["methods"]}
    (zoo,) = [entry for entry in everything["methods"] if entry["name"] == "zoo-prune"]
    assert zoo["paper"] == "arXiv 2509.24837 (CVPR 2026)"


def test_list_shows_the_stages_and_signals_of_methods():
    methods = {
        entry["name"]: entry for entry in json.loads(invoke("list", "methods", "--json").stdout)["methods"]
    }
    shown = {name: (methods[name]["stages"], methods[name]["signals"]) for name in ("fastv", "tower-diverse")}
    assert shown == {
        "fastv": (["decoder"], ["attention_rows"]),
        "tower-diverse": (["vision", "projector"], []),
    }
    lines = [line.strip() for line in invoke("list", "methods").stdout.splitlines()]
    assert lines[lines.index("stage decoder; signals attention_rows") - 2].startswith("fastv  ")
    assert "stage vision, then projector; no signals" in lines


def test_lists_fit_eighty_columns():
    lines = invoke("list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(invoke("list").stdout.split())
    assert "SparseVLM+: attention of text tokens, corrected for rotary, without recycling" in words


def test_a_method_with_a_broken_part_is_listed(install_plugin):
    install_plugin(
        """
        @tokenprune.hookimpl
        def tokenprune_methods():
            return [tokenprune.Method("lost", title="Needs another plugin.", scorer="no-such-scorer")]
        """
    )
    found = json.loads(invoke("list", "methods", "--json").stdout)["methods"]
    (lost,) = [entry for entry in found if entry["name"] == "lost"]
    assert (lost["stages"], lost["signals"]) == (["projector"], None)
    words = " ".join(invoke("list", "methods").stdout.split())
    assert "stage projector; a part of it cannot be loaded, see tokenprune plugins" in words


def test_list_says_where_a_strangers_strategy_is_from(install_plugin):
    install_plugin(
        """
        class Odd(tokenprune.Scorer):
            '''Likes odd slots.'''
            name = "odd"
            def score(self, tokens): ...
        @tokenprune.hookimpl
        def tokenprune_scorers():
            return [Odd]
        """
    )
    assert (
        "  odd            Likes odd slots. (from tokenprune-stranger)\n" in invoke("list", "scorers").stdout
    )


def test_plugins_shows_ours():
    record = json.loads(invoke("plugins", "--json").stdout)
    assert set(record) == {"plugins", "conflicts", "warnings"}
    (zoo,) = [entry for entry in record["plugins"] if entry["name"] == "zoo"]
    assert zoo == {
        "name": "zoo",
        "module": "tokenprune_plugins.zoo",
        "distribution": "tokenprune-vlm",
        "version": version("tokenprune-vlm"),
        "hooks": zoo["hooks"],
        "delivers": ["scorer zoo", "method zoo-prune"],
        "state": "loaded",
        "problem": None,
    }
    assert set(zoo["hooks"]) == {"tokenprune_scorers", "tokenprune_methods"}
    assert record["conflicts"] == []


def test_plugins_shows_what_is_broken_and_what_clashes(install_plugin):
    install_plugin("import no_such_module_at_all", name="broken")
    install_plugin(
        """
        class Zoo(tokenprune.Scorer):
            '''Takes a name that is taken.'''
            name = "zoo"
            def score(self, tokens): ...
        @tokenprune.hookimpl
        def tokenprune_scorers():
            return [Zoo]
        """,
        name="clash",
        distribution="tokenprune-clash",
    )
    record = json.loads(invoke("plugins", "--json", exit_code=1).stdout)
    (broken,) = [entry for entry in record["plugins"] if entry["name"] == "broken"]
    assert broken["state"] == "broken" and "no_such_module_at_all" in broken["problem"]
    (conflict,) = record["conflicts"]
    assert "'zoo' is offered twice" in conflict and "tokenprune-clash" in conflict
    text = invoke("plugins", exit_code=1).stdout
    assert broken["problem"] in text and conflict in text
    assert "'zoo' is offered twice" in invoke("list", "scorers").stdout


def test_plugins_shows_what_is_switched_off(monkeypatch):
    monkeypatch.setenv("TOKENPRUNE_DISABLE_PLUGINS", "random")
    tokenprune.default_registry.cache_clear()
    try:
        record = json.loads(invoke("plugins", "--json").stdout)
    finally:
        tokenprune.default_registry.cache_clear()
    (off,) = [entry for entry in record["plugins"] if entry["name"] == "random"]
    assert off["state"] == "switched off" and off["delivers"] == []


def test_plugins_warns_of_the_namesake(monkeypatch):
    def fake(name):
        if name != "tokenprune":
            raise PackageNotFoundError(name)
        return "0.1.0"

    monkeypatch.setattr(plugins_command, "version", fake)
    text = invoke("plugins").stdout
    assert "'tokenprune' 0.1.0 is installed beside 'tokenprune-vlm'" in text and "unrelated" in text
    assert json.loads(invoke("plugins", "--json").stdout)["warnings"] == [plugins_command.namesake_warning()]


def test_plugins_does_not_warn_without_the_namesake():
    assert plugins_command.namesake_warning() is None


def run_json(photo, untrained, *more):
    question = "what shape is the cyan object ?"
    result = invoke("run", "--image", photo, "--prompt", question, "--model", untrained, "--json", *more)
    return json.loads(result.stdout)


def test_run_prunes_as_apply_does(photo, untrained, untrained_model, scenes):
    from tokenprune_evaluation.prompts import tokenized

    record = run_json(photo, untrained, "--method", "divprune", "--keep", 18, "--max-new-tokens", 5)
    model, processor = untrained_model
    inputs = tokenized(processor, [Image.fromarray(scenes[0][0].image)], ["what shape is the cyan object ?"])
    with tokenprune.apply(model, method="divprune", keep=18) as handle:
        output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        report = handle.last
    new = output[0, inputs["input_ids"].shape[1] :]
    assert record == {
        "answer": processor.decode(new, skip_special_tokens=True).strip(),
        "method": "divprune",
        "images": [
            {
                "grid": [1, 12, 12],
                "visual_tokens_before": 144,
                "visual_tokens": 18,
                "kept": report.images[0].kept.tolist(),
            }
        ],
        "kv_cache_bytes": report.kv_bytes,
        "kv_cache_bytes_unpruned": report.kv_bytes_unpruned,
    }


def test_run_takes_a_scorer_and_a_selector_and_a_share(photo, untrained):
    options = ("--scorer", "zoo", "--selector", "diverse", "--keep-ratio", 0.25, "--max-new-tokens", 1)
    pair = run_json(photo, untrained, *options)
    preset = run_json(photo, untrained, "--method", "zoo-prune", "--keep", 36, "--max-new-tokens", 1)
    assert pair["method"] == "zoo+diverse"
    assert pair["images"] == preset["images"]


def test_run_without_a_method_uses_the_default(photo, untrained):
    assert run_json(photo, untrained, "--keep", 9, "--max-new-tokens", 1)["method"] == "zoo-exact"


def test_the_seed_decides_random_choices(photo, untrained):
    kept = [
        run_json(photo, untrained, "--method", "random", "--keep", 9, "--seed", seed, "--max-new-tokens", 1)
        for seed in (0, 0, 1)
    ]
    assert kept[0] == kept[1]
    assert kept[0]["images"] != kept[2]["images"]


def test_run_prints_the_answer_first_and_saves_a_picture(photo, untrained, tmp_path):
    picture = tmp_path / "kept.png"
    options = ["--image", photo, "--prompt", "how many stars ?", "--model", untrained, "--keep", 18]
    lines = invoke("run", *options, "--save", picture, "--max-new-tokens", 3).stdout.splitlines()
    record = run_json(photo, untrained, "--keep", 18, "--max-new-tokens", 1)
    assert len(lines) == 3
    assert lines[1].startswith("zoo-exact: 18 of 144 visual tokens kept in 1 image(s)")
    assert lines[2] == f"picture of the kept tokens: {picture}"
    with Image.open(picture) as saved:
        assert saved.width == PICTURE_SIDE and saved.height > PICTURE_SIDE
    assert record["images"][0]["visual_tokens"] == 18


def test_more_tokens_than_there_are_is_no_pruning(photo, untrained):
    record = run_json(photo, untrained, "--keep", 500, "--max-new-tokens", 1)
    assert record["images"][0]["kept"] is None
    assert record["kv_cache_bytes"] == record["kv_cache_bytes_unpruned"]
