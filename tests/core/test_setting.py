# SPDX-License-Identifier: Apache-2.0
"""Setting files: what is written is read, and another model, file or format is refused."""

import json
from importlib.metadata import version

import pytest
import torch

import tokenprune
from tokenprune import CalibratedSetting, InputError, UntestedVersionWarning
from tokenprune.setting import fingerprint


def network(seed=0, width=3):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(2, width))


@pytest.fixture
def setting():
    model = {"name": "small", "architecture": "Sequential", "weights": fingerprint(network())}
    return CalibratedSetting(
        {"method": "zoo-prune", "options": {"n_directions": 16}, "keep": 9, "seed": 3},
        model,
        {"limit": 0.02},
        {"torch": version("torch")},
    )


def test_a_file_holds_the_setting(setting, tmp_path):
    path = tmp_path / "setting.json"
    setting.save(path)
    assert CalibratedSetting.load(path) == setting
    arguments = tokenprune.load_setting(path, network())
    method = arguments.pop("method")
    assert (method.name, method.parts[0].n_directions) == ("zoo-prune", 16)
    assert arguments == {"keep": 9, "seed": 3}


def test_the_fingerprint_depends_on_names_shapes_and_values():
    prints = [fingerprint(network()), fingerprint(network(1)), fingerprint(network(width=4))]
    prints.append(fingerprint(torch.nn.ModuleDict({"a": network()})))
    prints.append(fingerprint(network().to(torch.bfloat16)))
    assert len(set(prints)) == 5
    assert fingerprint(network()) == prints[0]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (network(1), "'small', weights .* other weights or another dtype .*float32"),
        (network().to(torch.bfloat16), "other weights or another dtype .*bfloat16"),
        (torch.nn.Linear(2, 3), "calibrated on a Sequential .* not on a Linear"),
    ],
)
def test_another_model_is_refused(setting, model, said, tmp_path):
    setting.save(tmp_path / "setting.json")
    with pytest.raises(InputError, match=said):
        tokenprune.load_setting(tmp_path / "setting.json", model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is no setting file"),
        ('{"format": 1}', "is no setting file"),
        ('{"format": 1, "arguments": {}, "model": {}, "certificate": {}, "versions": {}}', "no setting file"),
    ],
)
def test_another_file_is_refused(text, said, tmp_path):
    path = tmp_path / "setting.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"{said}.*tokenprune calibrate"):
        CalibratedSetting.load(path)


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("arguments", {"method": None}, "it lacks method"),
        ("arguments", {"keep_ratio": 0.5}, "exactly one of keep, keep_ratio, cover"),
        ("arguments", {"options": []}, "an object as 'options'"),
        ("model", {"weights": 3, "architecture": None}, "it lacks architecture, weights"),
    ],
)
def test_a_file_with_other_values_is_refused(setting, part, changed, said, tmp_path):
    path = tmp_path / "setting.json"
    setting.save(path)
    values = json.loads(path.read_text())
    values[part] |= changed
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"{said}; make one with"):
        CalibratedSetting.load(path)


def test_a_rule_is_read_as_a_budget(setting, tmp_path):
    path, arguments = (
        tmp_path / "setting.json",
        {"method": "divprune", "cover": {"radius": 0.2, "at_least": 4}},
    )
    CalibratedSetting(arguments, setting.model).save(path)
    assert tokenprune.load_setting(path, network())["keep"] == tokenprune.cover(0.2, at_least=4)


def test_another_format_is_refused(setting, tmp_path):
    path = tmp_path / "setting.json"
    setting.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(InputError, match="format 2, and this version of tokenprune reads format 1"):
        CalibratedSetting.load(path)


def test_another_version_warns(setting):
    older = CalibratedSetting(setting.arguments, setting.model, {}, {"torch": "1.0", "no-such-thing": "2"})
    with pytest.warns(UntestedVersionWarning, match=r"torch 1\.0 \(here .*--verify"):
        older.check(network())
    setting.check(network())  # the version that is installed
