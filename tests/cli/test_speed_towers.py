# SPDX-License-Identifier: Apache-2.0
"""Cuts inside the vision tower in the benchmark: oracles by hand, and operations; never a time."""

import dataclasses
import io
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny_families
import tiny_models
import torch
import transformers
from blocks import speed
from blocks.speed_goals import goals
from rich.console import Console
from tokenprune_cli.app import app
from tokenprune_cli.bench.measure import Amount, measure
from tokenprune_cli.bench.presets import PRESETS
from tokenprune_cli.bench.record import BenchRecord
from tokenprune_cli.bench.table import full_table, label, terminal_tables
from tokenprune_cli.bench.tower_oracle import check_tower, projected_rows
from tokenprune_cli.bench.workload import make_workload
from tokenprune_evaluation.records import from_dict, to_dict
from tokenprune_evaluation.tower_costs import evenly_spaced, groups_in_windows, window_side
from tokenprune_evaluation.tower_cut import TowerCut
from typer.testing import CliRunner

import tokenprune

CUTS = (TowerCut("divprune", 1, 6), TowerCut("divprune", 1, 9), TowerCut("divprune", 1, 5))
AMOUNT = Amount(("divprune",), (6,), (1, 2), (1,), 8, 4, 1, 1, 1, width=5, tower_cuts=CUTS)
LABELS = [
    "unpruned",
    "downsample, 6",
    "divprune, 6",
    "tower divprune, 6 @1",
    "tower divprune, 9 @1, 6",
    "oracle, 6",
    "tower oracle, 6 @1",
    "tower oracle, 9 @1, 6",
]


def siglip():
    """A LLaVA with SigLIP's tower, which has no class token."""
    torch.manual_seed(0)
    settings = tiny_models.llava().config.to_dict() | {"vision_feature_select_strategy": "full"}
    settings["vision_config"] = tiny_families.SIGLIP | {"num_hidden_layers": 3}
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**settings)).eval()


def qwen2_vl():
    """Qwen2-VL, whose tower has no windows."""
    torch.manual_seed(0)
    return transformers.Qwen2VLForConditionalGeneration(tiny_families.qwen2_vl()).eval()


MODELS = {"llava": tiny_models.llava, "siglip": siglip, "qwen": tiny_models.qwen, "qwen2_vl": qwen2_vl}


@pytest.fixture(scope="module", params=MODELS)
def measured(request):
    """The runs of a model of each family."""
    runs, skipped, _ = measure(MODELS[request.param](), AMOUNT)
    assert skipped == {"tower divprune, 5 @1": "it leaves 5 tokens, fewer than every budget"}
    return runs


@dataclass(frozen=True)
class Given(tokenprune.Selector):
    """Keeps given slots."""

    name: ClassVar[str] = "given"
    slots: tuple[int, ...] = (0,)

    def select(self, tokens, scores, keep):
        return tokenprune.Selection.from_order(torch.tensor(self.slots))


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", MODELS)
def test_the_oracle_by_hand_equals_a_pruned_model_that_keeps_the_same_tokens(family, layer):
    model, keep = MODELS[family](), 7
    workload = make_workload(model, 2, 8, (4, 5))
    tokens = list(range(workload.n_visual))
    if family.startswith("qwen"):
        side = window_side(model.config.vision_config)
        tokens = [number for _, number in groups_in_windows(4, 5, side)]
    slots = [tokens[i] for i in evenly_spaced(len(tokens), keep)]
    by_hand = projected_rows(model, workload, layer, keep)
    assert by_hand.shape[:2] == (2, keep)
    arguments = {name: workload.inputs[name] for name in workload.tower_arguments}
    selector = Given(tuple(sorted(slots)))
    with tokenprune.apply(model, selector=selector, keep=keep, stage="vision", layer=layer):
        pruned = torch.stack(list(model.model.get_image_features(**arguments).pooler_output))
    torch.testing.assert_close(by_hand, pruned[:, slots], atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("family", MODELS)
def test_the_oracle_that_keeps_everything_is_the_model(family):
    model = MODELS[family]()
    workload = make_workload(model, 2, 8, (4, 5))
    tokens = torch.arange(workload.n_visual)
    if family.startswith("qwen"):
        side = window_side(model.config.vision_config)
        tokens = torch.tensor([number for _, number in groups_in_windows(4, 5, side)])
    arguments = {name: workload.inputs[name] for name in workload.tower_arguments}
    stock = torch.stack(list(model.model.get_image_features(**arguments).pooler_output))
    by_hand = projected_rows(model, workload, 1, workload.n_visual)
    torch.testing.assert_close(by_hand, stock[:, tokens], atol=2e-4, rtol=1e-3)


def test_every_tower_cut_runs_beside_its_own_oracle_and_the_whole_towers(measured):
    for batch in (1, 2):
        runs = {label(run): run for run in measured if run.batch == batch}
        assert list(runs) == LABELS
        for name, run in runs.items():
            cut = {"6 @1": ((1, 6),), "9 @1": ((1, 9),)}.get(name[-4:] if name[-1] == "1" else name[-7:-3])
            assert run.tower_rows == (cut or ())
            compared = set(run.ratios)
            if run.name == "tower divprune":
                assert compared == {"unpruned", "downsample", "oracle", "tower oracle"}
            elif run.name in ("tower oracle", "divprune"):
                assert compared == {"unpruned", "downsample", "oracle"}
            if run.name not in ("unpruned", "downsample"):
                assert run.visual_rows == ((0, 6),)


def test_operations_by_formula_are_those_that_pytorch_counts_without_the_selection(measured):
    for run in measured:
        assert set(run.flops) == {"tower", "language"}
        selecting = run.flops_counted - sum(run.flops.values())
        if run.name.endswith("divprune"):
            assert 0 < selecting < 0.2 * run.flops_counted
        else:
            assert selecting == 0
    for batch in (1, 2):
        tower = {label(run): run.flops["tower"] for run in measured if run.batch == batch}
        assert tower["oracle, 6"] == tower["unpruned"] > tower["tower oracle, 9 @1, 6"]
        assert tower["tower oracle, 9 @1, 6"] > tower["tower oracle, 6 @1"] > 0


def test_the_part_that_chooses_is_measured_inside_the_tower_too(measured):
    for run in measured:
        chooses = run.name.endswith("divprune")
        assert (run.seconds["choosing"].median > 0) == chooses or run.seconds["choosing"].median < 1e-3
        assert ("apply" in run.seconds) == chooses


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llava_next", "inside the vision tower of a 'llava_next'"),
        ("list", "with vision_feature_layer=\\[0, "),
    ],
)
def test_towers_without_an_oracle_are_left_out(name, reason):
    model = tiny_models.llava_next() if name == "llava_next" else tiny_models.llava()
    if name == "list":
        model.config.vision_feature_layer = [0, 1]
    with pytest.raises(tokenprune.IncompatibleError, match=reason):
        check_tower(model.config)
    if name == "llava_next":
        runs, skipped, _ = measure(model, dataclasses.replace(AMOUNT, batches=(1,)))
        assert [run.name for run in runs] == ["unpruned", "divprune", "oracle"]
        assert set(skipped) == {
            "downsample",
            "tower divprune, 5 @1",
            "tower divprune, 6 @1",
            "tower divprune, 9 @1",
        }


@pytest.fixture(scope="module")
def found():
    """The JSON of a run of the micro model, cut inside its tower too."""
    options = ["--preset", "micro", "--device", "cpu", "--method", "divprune", "--batch", "1", "--json"]
    few = ["--new-tokens", "1", "--repeats", "1", "--tower-cut", "1:9", "--tower-cut", "1:18"]
    result = CliRunner().invoke(app, ["bench", *options, *few])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_cuts_are_asked_for_on_the_command_line(found):
    names = [label(run) for run in from_dict(BenchRecord, found).runs]
    assert names[3:5] == ["tower divprune, 9 @1", "tower divprune, 18 @1, 9"]
    assert to_dict(from_dict(BenchRecord, found)) == found
    assert found["amount"]["tower_cuts"][1] == {"method": "divprune", "layer": 1, "keep": 18}


@pytest.mark.parametrize("text", ["4", "4:", ":64", "a:64", "4:0", "-1:64", "4:64:2"])
def test_a_cut_that_is_not_a_block_and_a_number_is_refused(text):
    result = CliRunner().invoke(app, ["bench", "--preset", "micro", f"--tower-cut={text}"])
    assert result.exit_code == 2 and result.stdout == ""
    assert "--tower-cut must be LAYER:N" in result.stderr and f"got '{text}'" in result.stderr


def test_the_terminal_tables_hold_every_column_within_80(found):
    record, shown = from_dict(BenchRecord, found), []
    slow = json.loads(json.dumps(found))
    for run in slow["runs"]:
        run["seconds"]["prefill"] |= {"median": 22.85, "low": 21.0, "high": 25.0}
    for one in (record, from_dict(BenchRecord, slow)):
        shown = []
        for table in terminal_tables(one):
            console = Console(width=80, file=io.StringIO())
            console.print(table.rich())
            lines = console.file.getvalue().splitlines()
            assert max(map(len, lines)) <= 80 and "…" not in "".join(lines)
            shown += [head.replace("\n", " ") for head in table.heads][2:]
        assert sorted(shown) == sorted(full_table(one).heads[2:])
    assert {"vs tower oracle", "tower GFLOP", "language GFLOP"} <= set(shown)


def test_goals_of_tower_cuts_are_read_off_the_ratios(found):
    made = json.loads(json.dumps(found))
    made["model"]["name"] = "cpu-tower"
    for run in made["runs"]:
        for name, parts in run["ratios"].items():
            parts["prefill"] = {"oracle": 0.85, "tower oracle": 1.04}.get(name, 0.5)
    reached = [(goal.kind, goal.figures.get("label"), goal.reached) for goal in goals(made)]
    assert ("tower cut", "tower divprune, 9 @1", False) in reached  # 0.80
    assert ("tower cut", "tower divprune, 18 @1, 9", True) in reached  # 0.90
    overheads = [r for r in reached if r[0] == "tower overhead"]
    assert [r[1:] for r in overheads] == [
        ("tower divprune, 9 @1", True),
        ("tower divprune, 18 @1, 9", True),
    ]
    assert not [goal for goal in goals(found) if goal.kind == "tower cut"]  # goals are those of presets


def test_shares_of_towers_are_computed_from_the_sizes_of_presets():
    lines = speed.tower_shares().splitlines()
    assert len(lines) == 2 + len(speed.SHARES)
    llava = next(line for line in lines if line.startswith("| llava-1.5-7b"))
    assert "| 20 |" in llava  # percent of what a cut before the language model leaves
    assert set(speed.SHARES) <= set(PRESETS)
