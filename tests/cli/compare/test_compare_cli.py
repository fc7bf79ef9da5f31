# SPDX-License-Identifier: Apache-2.0
"""`tokenprune compare` as it is typed: JSON alone on stdout, questions from a file, bad input named first."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from tokenprune_cli.app import app
from tokenprune_cli.console.failures import BadInputError
from tokenprune_evaluation.question_set import questions_from_file
from typer.testing import CliRunner

GOOD = {"image": "a.png", "question": "what color is the star ?", "answer": "red"}


def compare(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def refused(*arguments):
    result = compare(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *progress, line = result.stderr.strip().splitlines()
    assert all(done.startswith("answering: ") for done in progress)
    return line.removeprefix("tokenprune: ")


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a question file beside two pictures."""
    for name, color in (("a.png", (200, 20, 20)), ("b.png", (20, 20, 200))):
        Image.new("RGB", (40, 30), color).save(tmp_path / name)

    def write(*lines):
        path = tmp_path / "mine.jsonl"
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # half a pair as JSON writes it
        return path

    return write


def test_questions_from_a_file_each_metric_in_its_own_table(written, untrained, tmp_path):
    yes = {"image": "b.png", "question": "is there a red star ?", "answer": "no", "metric": "yes_no_f1"}
    path = written(GOOD, {**GOOD, "image": "b.png", "question": "a red\u2028star ?"}, yes)
    options = ["--questions", path, "--model", untrained, "--output", tmp_path / "out", "--max-new-tokens", 2]
    result = compare(*options, "--method", "divprune", "--keep", 9, "--protocol", "matched", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == record
    (model,) = record["models"]
    assert model["metrics"] == ["exact_match", "yes_no_f1"]
    assert {line["method"] for line in model["lines"]} == {None, "divprune", "stride", "random", "downsample"}
    assert model["configuration"]["questions"]["name"] == "mine.jsonl"
    assert model["preprocessing"].startswith("CLIPImageProcessor; resized to height 96, width 96; not padded")
    assert all(set(line["scores"]) == set(model["metrics"]) for line in model["lines"])
    assert str(tmp_path) not in record["command"]
    assert "a red\u2028star ?" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    changed = written(GOOD, {**GOOD, "image": "b.png"})
    again = ["--questions", changed, *options[2:], "--method", "divprune", "--keep", 9]
    said = refused(*again)
    assert "holds answers of another configuration (questions: " in said and "--restart" in said
    shown = compare(*again, "--protocol", "matched", "--restart")
    assert shown.exit_code == 0, shown.output
    assert "Protocol matched. " in shown.stdout and "report.html" in shown.stdout
    assert "yes_no_f1" not in shown.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "?", "answer": "a"}, "line 2: the field 'image' is missing"),
        ({**GOOD, "image": "c.png"}, "line 2: there is no image"),
        ({**GOOD, "metric": "bleu"}, "line 2: unknown metric 'bleu'; metrics: exact_match, yes_no_f1"),
        ({**GOOD, "metric": "yes_no_f1"}, "line 2: yes_no_f1 takes one answer, 'yes' or 'no', not"),
        ({**GOOD, "answers": ["a"]}, "line 2: give either 'answer', a string, or 'answers'"),
        (
            {**GOOD, "answer": "\ud800"},
            r"line 2: 'answer' contains '\ud800', which is not allowed; remove it",
        ),
    ],
)
def test_a_bad_line_is_named_before_any_work(written, tmp_path, line, said):
    # the model does not exist: it is not even looked for
    path = written(GOOD, line, GOOD)
    assert said in refused("--questions", path, "--model", tmp_path / "none", "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "fastvv"], "unknown method 'fastvv'. Did you mean 'fastv'"),
        (["--keep", "0"], "keep must be at least 1 (every image keeps a token), got 0"),
        (["--keep", "some"], "keep must be an integer, the visual tokens kept per image, got 'some'"),
        (["--metric", "exact_match"], "--metric goes with --questions"),
        (["--questions", "none.jsonl", "--scenes", "4"], "give either --questions or --scenes, not both"),
        (["--questions", "none.jsonl"], "the question file 'none.jsonl' cannot be read"),
        (["--method", "cdpruner"], "needs the signal clip_patch_embeds, clip_text_embeds"),
        (["--method", "cdpruner"], "tokenprune_adapters.clip_space.ClipSpace"),
        (["--min-pixels", "100"], "--min-pixels and --max-pixels are for models that take pictures of any"),
        (["--model", "a/x", "--model", "b/x"], "two models are called 'x'; rename one directory"),
    ],
)
def test_bad_input_is_named(options, said, tmp_path):
    few = [] if "--questions" in options else ["--scenes", 2]
    assert said in refused(*few, *options, "--output", tmp_path / "out")


def test_a_damaged_picture_is_named(written, untrained, tmp_path):
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    path = written(GOOD, {**GOOD, "image": "cut.png"})
    options = ["--questions", path, "--model", untrained, "--output", tmp_path / "out", "--keep", 9]
    wanted = f"{path}, line 2: the image '{tmp_path / 'cut.png'}' cannot be read: "
    assert refused(*options).startswith(wanted)
    command = ["compare", *map(str, options), "--workers", "2", "--batch", "1", "--restart"]
    done = subprocess.run(  # what other processes write to stderr is no Python stream's
        [sys.executable, "-m", "tokenprune_cli", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "tokenprune: " + wanted in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("cut.png") == 1


def test_a_question_file_that_vanishes_under_way_is_named(written, untrained, tmp_path, monkeypatch, capfd):
    def read_and_removed(path, metric):
        questions = questions_from_file(path, metric)
        path.unlink()  # before the other processes read it
        return questions

    monkeypatch.setattr("tokenprune_cli.compare.workers.questions_from_file", read_and_removed)
    path = written(GOOD, {**GOOD, "image": "b.png"})
    options = ["--questions", path, "--model", untrained, "--output", tmp_path / "out", "--keep", 9]
    said = refused(*options, "--method", "divprune", "--workers", 2, "--batch", 1)
    assert said.startswith(f"the question file '{path}' cannot be read: ")
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_that_is_too_large_is_named(written, untrained, tmp_path, monkeypatch):
    path = written({**GOOD, "image": "b.png"}, GOOD, GOOD)
    opened = questions_from_file(path).open_image
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadInputError, match=r"mine\.jsonl, line 2: the image '.*a\.png' cannot be read: "):
        opened(1)


def test_a_question_that_holds_the_sign_of_a_picture_is_named(written, untrained, tmp_path):
    path = written(GOOD, {**GOOD, "question": "what is on <image> ?"})
    command = ["compare", "--output", tmp_path / "out", "--model", untrained, "--questions", path]
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"tokenprune: {path}, line 2: the question holds '<image>', which stands for")


def test_an_unknown_metric_is_named_even_when_no_line_needs_it(written, tmp_path):
    said = refused("--questions", written(GOOD), "--metric", "bleu", "--output", tmp_path / "out")
    assert said.startswith("unknown metric 'bleu'; metrics:")


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "cannot be made" in refused("--scenes", 2, "--output", tmp_path / "out")


def test_a_conversation_needs_a_second_question(written, tmp_path):
    options = ["--questions", written(GOOD, {**GOOD, "image": "b.png"}), "--output", tmp_path / "out"]
    assert "needs a picture with two questions or more" in refused("--conversation", *options)
