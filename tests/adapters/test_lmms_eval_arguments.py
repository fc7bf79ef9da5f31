# SPDX-License-Identifier: Apache-2.0
"""What lmms-eval hands over as text: pruning, loading and generation arguments, read before any work."""

import inspect
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
from tokenprune_adapters.loading import Device, Precision
from tokenprune_evaluation.pruning_arguments import APPLY_ARGUMENTS, read_pruning, read_value
from tokenprune_lmms_eval.generation import StopAtStrings, batches, read_generation, truncate
from tokenprune_lmms_eval.kept_rows import KeptRows
from tokenprune_lmms_eval.loading import Loading, split_arguments

import tokenprune


def test_lmms_eval_finds_the_model_without_loading_anything_heavy():
    (point,) = entry_points(group="lmms_eval.models", name="tokenprune")
    assert point.value == "tokenprune_lmms_eval:manifest"
    code = "import sys, tokenprune_lmms_eval; print('torch' in sys.modules or 'tokenprune' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_argument_of_apply_can_be_given():
    assert ("model", *APPLY_ARGUMENTS) == tuple(inspect.signature(tokenprune.apply).parameters)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[192,64]", [192, 64]),
        ("[zoo-prune, 'fastv']", ["zoo-prune", "fastv"]),
        ("[0.5]", [0.5]),
        ("{3:66,7:30,16:17}", {3: 66, 7: 30, 16: 17}),
        ("None", None),
        ("tile", "tile"),
        (64, 64),
        (0.25, 0.25),
    ],
)
def test_values_as_lmms_eval_leaves_them(text, value):
    assert read_value(text) == value


def test_arguments_of_apply_come_through():
    read = read_pruning({"method": "sparsevlm", "keep": 64, "budget": "paper", "min_tokens": 9, "seed": 3})
    assert read.pop("method").name == "sparsevlm"
    assert read == {"keep": 64, "budget": "paper", "min_tokens": 9, "seed": 3}
    assert read_pruning({"keep_ratio": 0.25}) == {"keep_ratio": 0.25}
    assert read_pruning({"scorer": "zoo", "schedule": "{2:30}"})["schedule"] == {2: 30}


def test_options_of_a_strategy_reach_it():
    method = read_pruning({"method": "zoo-prune", "keep": 64, "n_directions": 16})["method"]
    assert method.scorer.n_directions == 16
    read = read_pruning(
        {"scorer": "zoo", "selector": "diverse", "keep": 9, "step_size": 0.1, "normalise": "max"}
    )
    assert (read["scorer"].step_size, read["selector"].normalise) == (0.1, "max")


def test_several_methods_have_a_list_of_budgets():
    read = read_pruning({"method": "[zoo-exact,fastv]", "keep": "[192,64]"})
    assert ([one.name for one in read["method"]], read["keep"]) == (["zoo-exact", "fastv"], [192, 64])


def test_unpruned_is_said():
    assert read_pruning({"method": "unpruned"}) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "zoo-prun", "keep": 9}, "Did you mean 'zoo-prune'"),
        ({"method": "zoo-prune"}, "exactly one of keep"),
        ({}, "exactly one of keep"),
        ({"method": "zoo-prune", "keep": -1.0}, "keep must be an integer"),
        ({"method": "zoo-prune", "keep": 9, "keep_ratio": 0.5}, "got both"),
        ({"method": "zoo-prune", "kep": 9}, "no option 'kep'; it has pretrained, method, scorer"),
        ({"method": "divprune", "keep": 9, "n_directions": 4}, "no option 'n_directions'"),
        (
            {"method": "[zoo-prune,fastv]", "keep": "[9,4]", "n_directions": 4},
            "options require a single method",
        ),
        ({"scorer": "[zoo,random]", "keep": 9}, "scorer takes one name"),
        ({"method": "unpruned", "keep": 9}, "method=unpruned cannot be combined with keep"),
        ({"method": "fastv", "schedule": "{2=30}"}, "{layer:rows,layer:rows}"),
        ({"method": 7, "keep": 9}, "must be a string"),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_model(given, said):
    with pytest.raises(tokenprune.TokenPruneError) as refusal:
        read_pruning(given, ("pretrained",))
    assert said in str(refusal.value)


def test_loading_is_told_from_pruning():
    loading, rest = split_arguments({"pretrained": 7, "dtype": "float16", "keep": 64, "pad_to_square": True})
    assert loading == Loading("7", dtype="float16", pad_to_square=True)
    assert (loading.precision, loading.max_new_tokens, rest) == (Precision.float16, 1024, {"keep": 64})
    assert [Loading.read_device(device) for device in (None, "cpu", "cuda")] == [
        Device.auto,
        Device.cpu,
        Device.cuda,
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "pretrained=embedded, a directory or a hub id"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        ({"trust_remote_code": "yes"}, "trust_remote_code must be true or false, got 'yes'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer, 1 or more, got 0"),
        ({"max_pixels": True}, "max_pixels must be an integer"),
        ({"revision": 1.5}, "revision must be a string, got 1.5"),
        ({"attn_implementation": 2}, "attn_implementation must be a string, got 2"),
        ({"device_map": "gpu"}, "device_map must be auto, balanced, .* cpu, cuda or cuda:N, got 'gpu'"),
        ({"device_map": ""}, "device_map must be a string, got ''"),
    ],
)
def test_loading_arguments_that_cannot_be_used(given, said):
    with pytest.raises(tokenprune.InputError, match=said):
        split_arguments(given if not given else {"pretrained": "embedded", **given})


def test_digits_are_a_revision():
    assert split_arguments({"pretrained": "a/b", "revision": 1234567})[0].revision == "1234567"


def test_a_device_map_stands_for_the_device():
    for device_map in ("auto", "cpu", "cuda:1"):
        Loading("embedded", device_map=device_map).check_device_map(None)
    Loading("embedded").check_device_map("cuda")
    with pytest.raises(tokenprune.InputError, match="device_map=auto cannot be combined with --device cuda"):
        Loading("embedded", device_map="auto").check_device_map("cuda")


def test_a_system_prompt_has_a_name():
    text = Loading("embedded", system_prompt="vicuna_v1").system_text()
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        "helpful, detailed, and polite answers to the user's questions."
    )
    with pytest.raises(tokenprune.InputError, match="must be vicuna_v1 or a file: cannot read the file 'v2'"):
        Loading("embedded", system_prompt="v2").system_text()


def test_a_system_prompt_is_a_files_text(tmp_path):
    assert Loading("embedded").system_text() is None
    (tmp_path / "prompt.txt").write_text(" be brief\n")
    assert Loading("embedded", system_prompt=str(tmp_path / "prompt.txt")).system_text() == "be brief"
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in (("empty.txt", "is empty"), ("none.txt", "cannot read the file")):
        with pytest.raises(tokenprune.InputError, match=said):
            Loading("embedded", system_prompt=str(tmp_path / name)).system_text()


@pytest.mark.parametrize("device", ["mps", "cpu:0", "cuda:x"])
def test_a_device_that_is_none(device):
    with pytest.raises(tokenprune.InputError, match=f"cpu, cuda or cuda:N, got '{device}'"):
        Loading.read_device(device)


def test_a_task_without_sampling_is_answered_greedily():
    greedy = {"max_new_tokens": 16, "do_sample": False} | dict.fromkeys(
        ("temperature", "top_p", "top_k", "min_p", "typical_p")
    )
    for given in (
        {},
        {"temperature": 0},
        {"temperature": 0, "do_sample": True},
        {"temperature": 1, "do_sample": False},
    ):
        assert read_generation({"max_new_tokens": 16, **given}, 9).options == greedy


def test_sampling_is_what_the_task_says():
    options = read_generation({"temperature": 0.7, "top_p": 0.9, "num_beams": 1}, 9).options
    assert options == {
        "temperature": 0.7,
        "top_p": 0.9,
        "num_beams": 1,
        "do_sample": True,
        "max_new_tokens": 9,
    }
    assert read_generation({"do_sample": True}, 9).options == {"do_sample": True, "max_new_tokens": 9}


def test_until_and_what_is_not_used():
    read = read_generation({"until": ["\n\n", ""], "image_aspect_ratio": "original", "top_k": None}, 9)
    assert (read.until, read.unused) == (("\n\n",), ("image_aspect_ratio",))
    assert read_generation({"until": "ASSISTANT:"}, 9).until == ("ASSISTANT:",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"until": 3}, "until must be a string or a list of strings"),
        ({"num_return_sequences": 2}, "must be 1"),
    ],
)
def test_generation_arguments_that_cannot_be_used(given, said):
    with pytest.raises(tokenprune.InputError, match=said):
        read_generation(given, 9)


def test_only_equal_arguments_share_a_batch_and_order_stays():
    short, long = {"max_new_tokens": 1}, {"max_new_tokens": 2}
    found = batches([short, long, short, None, short], 2, 9)
    assert [(one.options["max_new_tokens"], numbers) for one, numbers in found] == [
        (1, [0, 2]), (1, [4]), (2, [1]), (9, [3]),
    ]  # fmt: skip


def test_an_answer_ends_at_the_first_of_its_stops():
    assert truncate("a cat\n\nUSER: b", ("USER:", "\n\n")) == "a cat"
    assert truncate("a cat", ("\n\n",)) == "a cat"
    assert truncate("\n\na", ("\n\n",)) == ""


class Letters:
    """A tokenizer of letters."""

    def batch_decode(self, ids, skip_special_tokens):
        return ["".join(chr(number) for number in row) for row in ids.tolist()]


def test_rows_stop_each_on_its_own_and_the_question_does_not_count():
    ids = torch.tensor([[ord(c) for c in text] for text in ("end: no end", "end: on and", "xxxx: a e n")])
    assert StopAtStrings(Letters(), ("end", "e n"), 5)(ids, None).tolist() == [True, False, True]


def image_report(before, after, cuts):
    return tokenprune.ImageReport(0, tokenprune.Layout((1, 1, before)), before, after, cuts=cuts)


def test_rows_are_averaged_over_images():
    rows = KeptRows(n_layers=4)
    assert rows.means() == {} and str(rows) == "kept no rows: there were no images"
    rows.add(tokenprune.PruningReport((image_report(100, 10, {0: 10}), image_report(60, 20, {1: 40, 3: 20}))))
    assert rows.means() == {
        "visual_tokens": 80.0,
        "visual_rows_kept": 15.0,
        "visual_rows_entering_a_layer": (10 + (60 + 40 + 40 + 20) / 4) / 2,
    }
    assert str(rows).startswith("kept 15.0 of 80.0 visual rows per image, 25.0 enter a layer")


def test_a_setting_file_stands_alone(tmp_path):
    setting = tokenprune.CalibratedSetting(
        {"method": "divprune", "keep": 9}, {"name": "m", "architecture": "A", "weights": "0"}
    )
    setting.save(tmp_path / "setting.json")
    path = str(tmp_path / "setting.json")
    assert read_pruning({"setting": path}) == {"setting": setting}
    with pytest.raises(tokenprune.InputError, match="it cannot be combined with keep, method"):
        read_pruning({"setting": path, "method": "fastv", "keep": 9})
    with pytest.raises(tokenprune.InputError, match="cannot be read"):
        read_pruning({"setting": "nothing.json"})
