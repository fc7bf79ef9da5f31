# SPDX-License-Identifier: Apache-2.0
"""The figures of docs/vision-towers.md: what is measured and how it is counted."""

from pathlib import Path

import pytest
import torch
from tokenprune_cli.bench.contenders import ORACLE, UNPRUNED
from tokenprune_embedded import load_embedded_model

import tokenprune
from benchmarks.scenes.splits import held_out_scenes
from benchmarks.towers import accuracy, probe, speed
from benchmarks.towers.__main__ import main
from benchmarks.towers.embedded import as_timm
from benchmarks.towers.subjects import Subject, timm_subject

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tower():
    """The embedded model's tower as transformers has it."""
    return load_embedded_model()[0].model.vision_tower


@torch.no_grad()
def test_timm_computes_what_transformers_computes(tower):
    pixels, _ = probe.labelled(scene for scene, _ in held_out_scenes(2))
    torch.testing.assert_close(as_timm(tower)(pixels), tower(pixels).pooler_output, atol=1e-5, rtol=1e-5)


def test_the_probe_finds_what_can_be_read_by_a_line():
    features = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([features[:, 0] > 0.3, features @ torch.tensor([1.0, -2, 0, 0, 1]) > 0], 1)
    found = probe.fit(features, labels.float())(features) > 0
    assert (found == labels).float().mean() > 0.98


def test_f1_counts_labels_of_all_scenes_together():
    found = torch.tensor([[True, True, False], [False, True, False]])
    there = torch.tensor([[True, False, False], [False, True, True]])
    assert probe.f1(found, there) == pytest.approx(2 * 2 / (3 + 3))
    low, high = probe.f1_interval(found, there)
    assert (low, high) == pytest.approx((2 / 3, 2 / 3))  # each of the scenes alone has it


def test_the_interval_of_f1_is_that_of_a_share_where_one_label_is_always_there():
    found = torch.arange(1000).view(-1, 1) % 4 > 0  # recall 0.75, precision 1
    low, high = probe.f1_interval(found, torch.ones_like(found))
    spread = 1.96 * (0.75 * 0.25 / 1000) ** 0.5  # of the recall; F1 = 2 r / (1 + r)
    for bound, recall in ((low, 0.75 - spread), (high, 0.75 + spread)):
        assert bound == pytest.approx(2 * recall / (1 + recall), abs=0.004)


def test_accuracy_is_that_of_the_pruned_tower(tower):
    model = probe.with_probe(as_timm(tower), 64)
    entries = accuracy.measure(model, {"stride": {"method": "stride"}}, 3)
    pixels, labels = probe.labelled(scene for scene, _ in held_out_scenes(3))
    there, where = labels > 0, probe.TASKS["pairs"]
    found = {(e["setting"], e["layer"], e["keep"]): e for e in entries}
    assert len(found) == 2 + 4 + 3 * 4
    with tokenprune.apply(model, method="stride", keep=36, layer=2):
        stride = probe.outputs(model, pixels) > 0
    for key, seen in {
        (accuracy.UNPRUNED, None, None): probe.outputs(model, pixels) > 0,
        (accuracy.ALWAYS, None, None): torch.ones_like(there),
        ("downsample", None, 36): probe.outputs(model, accuracy.smaller(pixels, 36)) > 0,
        ("stride", 2, 36): stride,
    }.items():
        assert found[key]["pairs"]["f1"] == round(100 * probe.f1(seen[:, where], there[:, where]), 2)
    assert accuracy.smaller(pixels, 40).shape == (3, 3, 48, 48)


def test_every_setting_compared_runs_on_the_tower(tower):
    model, pixels = as_timm(tower), torch.zeros(1, 3, 96, 96)
    for setting in accuracy.settings().values():
        with tokenprune.apply(model, **setting, keep=18, layer=1) as handle, torch.no_grad():
            model(pixels)
        assert handle.last.n_after == 18


def small_subject():
    return timm_subject("vit_tiny_patch16_224", img_size=48, depth=3, embed_dim=24, num_classes=5)


def flops_by_hand(rows):
    """Of a ViT of width 24 over 9 patches of 16 x 16 pixels, with so many rows in its blocks."""
    blocks = sum(24 * n * 24**2 + 4 * n**2 * 24 for n in rows)
    return 2 * 9 * 3 * 16**2 * 24 + blocks + 2 * 24 * 5


def test_flops_are_counted_of_what_runs():
    subject = small_subject()
    assert speed.count_flops(subject, UNPRUNED, 1) == flops_by_hand([10, 10, 10])
    assert speed.count_flops(subject, ORACLE, 1) == flops_by_hand([10, 5, 5])


def test_towers_of_both_libraries_count_alike():
    """Also where attention runs as one operation without a count of its own."""
    import open_clip

    vision = {"image_size": 48, "patch_size": 16, "width": 24, "head_width": 8, "layers": 3}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.model.CLIP(5, vision, text).eval()
    subject = Subject(model, model.encode_image, model.visual.transformer.resblocks, 9, 48)
    assert speed.count_flops(subject, ORACLE, 1) == flops_by_hand([10, 5, 5])


def test_contenders_are_measured_at_each_batch_size():
    entries = speed.measure(small_subject(), {1: 2, 2: 1}, layer=1)
    assert [(e["batch"], e["name"]) for e in entries] == [(b, n) for b in (1, 2) for n in speed.CONTENDERS]
    whole, oracle = entries[:2]
    assert whole["vs_unpruned"] == whole["flops_ratio"] == oracle["vs_oracle"] == 1.0
    assert oracle["flops_ratio"] == round(flops_by_hand([10, 5, 5]) / flops_by_hand([10, 10, 10]), 4)
    assert [len(e["seconds"]["samples"]) for e in entries] == [2] * 6 + [1] * 6
    assert all((e["choosing_seconds"] is None) == (e["name"] in (UNPRUNED, ORACLE)) for e in entries)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["speed", "ViT-G"], "unknown model 'ViT-G'; available: timm ViT-B/16"),
        (["accuracy", "--scenes", "0"], "must be at least 1, got 0"),
        ([], "required: task"),
    ],
)
def test_bad_words_are_refused_at_the_command_line(words, sentence, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(words)
    assert sentence in capsys.readouterr().err


def test_it_is_run_in_the_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["accuracy"])
    assert "run this in the root of a checkout" in capsys.readouterr().err
