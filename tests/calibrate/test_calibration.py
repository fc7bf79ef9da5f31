# SPDX-License-Identifier: Apache-2.0
"""Calibration of the embedded model: losses against plain runs, resuming, refusals, and the command."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tokenprune_calibrate.answering import answer_pruned, answer_unpruned
from tokenprune_calibrate.calibration import calibrate, certified_goal, verify
from tokenprune_calibrate.collecting import Traffic
from tokenprune_calibrate.goal import Goal
from tokenprune_calibrate.statistics import binomial
from tokenprune_cli.app import app
from tokenprune_cli.console.models import load_model
from tokenprune_embedded import held_out_scenes
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.metrics import vqa_normal
from tokenprune_evaluation.question_set import embedded_scenes, questions_from_file
from tokenprune_evaluation.settings import Setting
from typer.testing import CliRunner

import tokenprune

N = 16
GOAL = Goal("disagreement", 0.6, 0.9, unit="question")


def calibrated(model, processor, questions, goal, output, batch=16, redact=False, **settings):
    return calibrate(
        Traffic(model, processor, questions, batch=batch, redact=redact), goal, output, **settings
    )


def verified(model, processor, questions, setting, output, batch=16):
    return verify(Traffic(model, processor, questions, batch=batch), setting, output)


@pytest.fixture(scope="module")
def embedded():
    return load_model(None)


@pytest.fixture(scope="module")
def other_model(embedded):
    model = copy.deepcopy(embedded[0])
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    return model


@pytest.fixture(scope="module")
def questions():
    return embedded_scenes(N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("calibrate")


@pytest.fixture(scope="module")
def result(embedded, questions, folder):
    return calibrated(
        *embedded, questions, GOAL, output=folder, methods=["divprune"], keeps=[36, 144], batch=5
    )


def test_losses_are_those_of_plain_runs(embedded, questions, result):
    model, processor = embedded

    def answers(numbers):
        inputs = questions.inputs(processor, numbers)
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    for line in result.lines:
        numbers = [number for (number,) in line["units"]]
        unpruned = answers(numbers)
        with tokenprune.apply(model, method="divprune", keep=36):
            pruned = answers(numbers)
        expected = [float(vqa_normal(a) != vqa_normal(b)) for a, b in zip(unpruned, pruned, strict=True)]
        assert line["losses"] == {"divprune 144": [0.0] * len(numbers), "divprune 36": expected}


def test_the_record_says_what_was_certified(result):
    record = result.record
    (ladder,) = record.ladders
    assert [rung.keep for rung in ladder.rungs] == [144, 36]  # from careful to cheap
    assert ladder.rungs[0].mean_loss == 0 and ladder.rungs[0].cost == pytest.approx(1.0, abs=0.01)
    losses = np.concatenate([line["losses"]["divprune 36"] for line in result.lines])
    assert ladder.rungs[1].mean_loss == losses.mean()
    assert ladder.rungs[1].p_value == binomial.p_value(losses, 0.6)
    assert ladder.rungs[1].upper_bound == binomial.upper_bound(losses, 1 - 0.9)
    assert ladder.rungs[1].is_certified == (binomial.p_value(losses, 0.6) <= 1 - 0.9)
    assert 0.2 < ladder.rungs[1].cost < 0.6
    assert (record.units, record.test, record.noise_floor) == (N, "exact binomial", 0.0)
    best = 36 if ladder.rungs[1].is_certified else 144
    assert record.chosen == {"method": "divprune", "keep": best}


def test_the_setting_prunes_the_model_and_no_other(embedded, result, folder, other_model):
    path = folder / "setting.json"
    result.setting.save(path)
    with tokenprune.apply(embedded[0], **tokenprune.load_setting(path, embedded[0])) as handle:
        assert handle.cuts[0].method.name == "divprune"
    with pytest.raises(tokenprune.InputError, match="other weights"):
        tokenprune.load_setting(path, other_model)


def test_a_finished_calibration_is_read_from_its_journal(embedded, questions, result, folder, monkeypatch):
    monkeypatch.setattr("tokenprune_calibrate.collecting._answer", None)
    monkeypatch.setattr("tokenprune_calibrate.collecting._floor_losses", None)
    again = calibrated(
        *embedded, questions, GOAL, output=folder, methods=["divprune"], keeps=[36, 144], batch=5
    )
    assert json.dumps(again.lines) == json.dumps(result.lines)
    assert again.record.ladders == result.record.ladders


def test_an_interrupted_one_resumes(embedded, questions, result, folder, tmp_path):
    lines = (folder / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text("".join(lines[:-2]) + lines[-2][:20])
    again = calibrated(
        *embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=[36, 144], batch=5
    )
    assert [line["losses"] for line in again.lines] == [line["losses"] for line in result.lines]


def test_another_goal_needs_another_journal(embedded, questions, result, folder, tmp_path):
    """The limit is decided before data are seen."""
    shutil.copy(folder / "answers.jsonl", tmp_path)
    with pytest.raises(BadInputError, match="another configuration.*goal"):
        calibrated(
            *embedded, questions, Goal("disagreement", 0.7, 0.9, unit="question"), output=tmp_path,
            methods=["divprune"], keeps=[36, 144], batch=5,
        )  # fmt: skip


def test_a_redacted_journal_holds_no_text(embedded, questions, tmp_path):
    calibration = calibrated(
        *embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=[36], batch=16, redact=True
    )
    text = (tmp_path / "answers.jsonl").read_text()
    assert all(item.question.text not in text for item in questions.items)
    assert set(calibration.lines[0]) == {"batch", "units", "losses"}


def test_the_divergence_is_the_mean_total_variation(embedded, questions):
    """Against one forward pass over prompt and answer, without a cache."""
    model, processor = embedded
    batch, setting = questions.inputs(processor, [0, 30, 77]), Setting("divprune", 36)
    reference = answer_unpruned(model, processor, batch, 16, with_distributions=True)
    pruned = answer_pruned(model, processor, batch, setting, reference, 16, seed=0)
    for row, number in enumerate((0, 30, 77)):
        length = reference.lengths[row]
        alone = questions.inputs(processor, [number])
        answer = reference.ids[row : row + 1, :length]
        full = {**alone, "input_ids": torch.cat([alone["input_ids"], answer], 1)}
        full["attention_mask"] = torch.ones_like(full["input_ids"])
        prompt = alone["input_ids"].shape[1]
        with torch.no_grad():
            theirs = model(**full).logits[0, prompt - 1 : -1].softmax(-1)
            with tokenprune.apply(model, method="divprune", keep=36):
                ours = model(**full, logits_to_keep=length + 1).logits[0, :-1].softmax(-1)
        expected = float((0.5 * (ours - theirs).abs().sum(-1)).mean())
        assert pruned[row].divergence == pytest.approx(expected, abs=1e-4)
    unpruned = answer_pruned(model, processor, batch, Setting("divprune", 144), reference, 16, seed=0)
    assert all(answer.divergence < 1e-5 for answer in unpruned)


@pytest.mark.parametrize(
    ("goal", "methods", "said"),
    [
        (Goal("disagreement", 0.02), ["divprune"], "at 95% confidence takes at least 190 pictures .* are 16"),
        (Goal("disagreement", 0.02, unit="question"), ["divprune"], "takes at least 149 pictures"),
        (
            Goal("disagreement", 0.02, unit="question"),
            ["divprune", "fastv"],
            "which 2 methods share takes at least 183",
        ),
        (GOAL, ["downsample"], "downsample is no method of tokenprune.apply"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_any_work(
    embedded, questions, goal, methods, said, tmp_path
):
    if said is None:
        return
    with pytest.raises(BadInputError, match=said):
        calibrated(*embedded, questions, goal, output=tmp_path / "new", methods=methods, keeps=[36])
    assert not (tmp_path / "new").exists()


def test_a_limit_below_the_noise_floor_is_refused(embedded, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenprune_calibrate.calibration.floor", lambda *_: (0.61, 16))
    with pytest.raises(BadInputError, match="with itself, in other batches, is 61.00% on 16 questions"):
        calibrated(*embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=[36])


def test_stopping_early_answers_less(embedded, tmp_path):
    goal = Goal("disagreement", 0.9, 0.6, unit="question", stop_early=True)
    calibration = calibrated(
        *embedded, embedded_scenes(20), goal, output=tmp_path, methods=["divprune"], keeps=[144], batch=4
    )
    assert calibration.record.test == "betting"
    assert calibration.record.units == 4
    assert calibration.record.chosen == {"method": "divprune", "keep": 144}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Requests without right answers, as traffic is."""
    folder = tmp_path_factory.mktemp("traffic")
    lines = []
    for number, (scene, asked) in enumerate(held_out_scenes(12)):
        Image.fromarray(np.asarray(scene.image)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": asked[0].text}))
    (folder / "traffic.jsonl").write_text("\n".join(lines))
    return folder / "traffic.jsonl"


def call(*words):
    return CliRunner().invoke(app, ["calibrate", *map(str, words)], env={"COLUMNS": "100"})


def test_the_command_writes_a_setting_that_run_takes(requests, tmp_path):
    options = ("--method", "divprune", "--keep", 144, "--keep", 72, "--output", tmp_path)
    done = call("--requests", requests, "--max-disagreement", 0.7, "--confidence", 0.9, *options)
    assert done.exit_code == 0, done.output
    assert "12 pictures; a limit of 70.00% at 90% confidence takes at least 2 without a single" in done.stderr
    assert f"Answers are written to '{tmp_path / 'answers.jsonl'}'" in done.stderr
    words = " ".join(done.stdout.split())
    assert "is certified for a disagreement of at most 70.00% at 90% confidence" in words
    assert "holds the requests' answers (--redact leaves them out)" in words
    page = (tmp_path / "calibration.html").read_text()
    assert "What the certificate means" in page and "<svg" in page
    picture = requests.parent / "0.png"
    setting = tmp_path / "setting.json"
    ran = CliRunner().invoke(
        app,
        ["run", "--image", str(picture), "--prompt", "what color is the star ?", "--setting", str(setting)],
    )
    assert ran.exit_code == 0 and "divprune: " in ran.stdout
    again = call("--verify", setting, "--requests", requests, "--output", tmp_path / "verified", "--json")
    record = json.loads(again.stdout)
    assert record["goal"]["limit"] == 0.7 and len(record["ladders"][0]["rungs"]) == 1


def test_nothing_certified_is_said_with_the_best_bound(requests, tmp_path):
    done = call(
        "--requests", requests, "--max-disagreement", 0.25, "--confidence", 0.9, "--method", "divprune",
        "--keep", 2, "--output", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0
    words = " ".join(done.stdout.split())
    assert "No setting is certified" in words and "the best upper bound is" in words
    assert not (tmp_path / "setting.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give exactly one of --max-disagreement, --max-drop, --max-divergence; got 0 of them"),
        (("--max-drop", 0.1, "--max-divergence", 0.1), "got 2 of them"),
        (("--max-disagreement", 2), "must be a number above 0 and below 1, got 2.0"),
        (("--max-drop", 0.7), "the field 'answer' is missing|give either 'answer'"),
        (("--max-disagreement", 0.7, "--scenes", 5), "give either --requests or --scenes"),
        (("--verify", "nothing.json"), "'nothing.json' cannot be read"),
        (("--verify", "nothing.json", "--max-drop", 0.1), "--verify takes --max-drop from the setting file"),
        (
            ("--verify", "nothing.json", "--confidence", 0.9, "--unit", "question", "--seed", 0),
            "--verify takes --confidence, --unit, --seed from the setting file",
        ),
        (("--verify", "nothing.json", "--stop-early"), "--verify takes --stop-early from the setting file"),
        (("--verify", "nothing.json", "--max-new-tokens", 3), "--verify takes --max-new-tokens from"),
    ],
)
def test_bad_input_gives_one_sentence(requests, words, said, tmp_path):
    done = call("--requests", requests, *words, "--output", tmp_path / "out")
    assert done.exit_code == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr
    assert re.search(f"^tokenprune: .*({said})", done.stderr.splitlines()[-1])


def test_a_damaged_picture_is_refused(requests, tmp_path):
    folder = tmp_path / "traffic"
    shutil.copytree(requests.parent, folder)
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:-400])
    done = call(
        "--requests",
        folder / "traffic.jsonl",
        "--max-disagreement",
        0.7,
        "--confidence",
        0.9,
        "--output",
        tmp_path / "out",
    )
    assert done.exit_code == 2 and "line 4: the image" in done.stderr and "cannot be read" in done.stderr


def test_verify_refuses_another_model(result, other_model, embedded, questions, tmp_path):
    with pytest.raises(tokenprune.InputError, match="other weights"):
        verified(other_model, embedded[1], questions, result.setting, output=tmp_path)


def test_files_without_answers_are_read_where_none_are_needed(requests):
    assert questions_from_file(requests, needs_answers=False).items[0].answers == ()


def test_run_takes_a_setting_or_a_method(requests, result, tmp_path):
    result.setting.save(tmp_path / "setting.json")
    words = ["run", "--image", str(requests.parent / "0.png"), "--prompt", "what color is the star ?"]
    for beside in (["--method", "divprune"], ["--keep", "9"], ["--keep-ratio", "0.5"], ["--scorer", "zoo"]):
        done = CliRunner().invoke(app, [*words, "--setting", str(tmp_path / "setting.json"), *beside])
        assert done.exit_code == 2
        assert f"--setting has the method and its budget; leave {beside[0]} out" in done.stderr
    for strategy, name in ((["--method", "fastv"], "fastv"), (["--scorer", "zoo"], "zoo+topk")):
        done = CliRunner().invoke(app, [*words, *strategy, "--keep", "9"])
        assert done.exit_code == 0 and done.stdout.splitlines()[1].startswith(f"{name}: ")


def test_rules_are_certified_like_counts(embedded, questions, tmp_path):
    """A larger radius keeps fewer tokens, so that rules are tested from the smallest on."""
    rules = [tokenprune.Cover(radius, at_least=4) for radius in (0.5, 0.05)]
    calibration = calibrated(
        *embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=rules, batch=16
    )
    record = calibration.record
    (ladder,) = record.ladders
    assert [rung.keep for rung in ladder.rungs] == ["cover(0.05, at_least=4)", "cover(0.5, at_least=4)"]
    assert ladder.rungs[0].cost > ladder.rungs[1].cost
    chosen = record.chosen_rung()
    assert chosen.keep == record.chosen["keep"] and chosen.is_certified
    calibration.setting.save(tmp_path / "setting.json")
    arguments = tokenprune.load_setting(tmp_path / "setting.json", embedded[0])
    assert arguments["keep"] == tokenprune.cover(float(chosen.keep[6:].split(",")[0]), at_least=4)
    again = verified(*embedded, questions, calibration.setting, output=tmp_path / "again", batch=16)
    assert again.record.ladders[0].rungs[0].mean_loss == chosen.mean_loss


def test_counts_and_rules_are_ladders_of_their_own(embedded, questions, tmp_path):
    keeps = [144, tokenprune.Cover(0.1), 72]
    record = calibrated(
        *embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=keeps, batch=16
    ).record
    assert [[rung.keep for rung in ladder.rungs] for ladder in record.ladders] == [[144, 72], ["cover(0.1)"]]
    assert [ladder.delta for ladder in record.ladders] == [pytest.approx(0.05)] * 2  # they share 1 - 0.9


def test_rules_that_differ_in_their_counts_are_refused(embedded, questions, tmp_path):
    rules = [tokenprune.Cover(0.1, at_least=2), tokenprune.Cover(0.2)]
    with pytest.raises(
        BadInputError, match="differ in at_least or at_most, so that none is the most careful"
    ):
        calibrated(*embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=rules)
    with pytest.raises(BadInputError, match="pick.*; leave the method or the budget out"):
        calibrated(*embedded, questions, GOAL, output=tmp_path, methods=["stride"], keeps=rules[1:])


def test_verify_answers_as_the_setting_was_certified(embedded, questions, result, tmp_path):
    """With its maximum length, whatever that of the traffic is."""
    traffic = Traffic(*embedded, questions, max_new_tokens=1)
    record = verify(traffic, result.setting, tmp_path).record
    ((rung,),) = (ladder.rungs for ladder in record.ladders)
    assert rung.mean_loss == result.record.chosen_rung().mean_loss
    assert record.goal == result.record.goal
    head = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert head["configuration"]["max_new_tokens"] == 16


def test_verify_refuses_a_setting_without_a_certificate(embedded, questions, result, tmp_path):
    plain = tokenprune.CalibratedSetting(result.setting.arguments, result.setting.model)
    with pytest.raises(BadInputError, match="has no 'max_new_tokens'; make one with `tokenprune calibrate`"):
        verified(*embedded, questions, plain, output=tmp_path)
    with pytest.raises(BadInputError, match="names no goal that it was certified for"):
        certified_goal(plain)


def test_verify_does_not_overwrite_the_setting(requests, result, tmp_path):
    path = tmp_path / "setting.json"
    result.setting.save(path)
    before = path.read_text()
    done = call("--verify", path, "--requests", requests, "--output", tmp_path, "--restart")
    assert done.exit_code == 2 and "give --verify another --output" in done.stderr
    assert path.read_text() == before


def test_the_journal_of_another_command_is_refused(embedded, questions, tmp_path):
    (tmp_path / "answers.jsonl").write_text("[]\n")
    with pytest.raises(BadInputError, match="holds no answers of tokenprune calibrate"):
        calibrated(*embedded, questions, GOAL, output=tmp_path, methods=["divprune"], keeps=[36])
