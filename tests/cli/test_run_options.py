# SPDX-License-Identifier: Apache-2.0
"""What `run` takes besides a name and a budget: options of strategies, places of cuts, `--compare`."""

import json

import pytest
import torch
from PIL import Image
from tokenprune_adapters.clip_space import ClipSpace
from tokenprune_cli.app import app
from tokenprune_evaluation.prompts import tokenized
from tokenprune_evaluation.pruning_arguments import read_text, split_options
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig
from typer.testing import CliRunner

import tokenprune

QUESTION = "what shape is the cyan object ?"


def invoke(photo, *more):
    arguments = ["run", "--image", photo, "--prompt", QUESTION, "--max-new-tokens", 5, *more]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run(photo, untrained):
    def run(*more):
        done = invoke(photo, "--model", untrained, "--json", *more)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


@pytest.fixture
def applied(untrained_model, scenes):
    """What the same arguments of `apply` keep and answer."""
    model, processor = untrained_model
    inputs = tokenized(processor, [Image.fromarray(scenes[0][0].image)], [QUESTION])

    def generated():
        ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def applied(**arguments):
        if not arguments:
            return generated()
        with tokenprune.apply(model, **arguments) as handle:
            return generated(), handle.last

    return applied


def check(record, expected):
    answer, report = expected
    assert record["answer"] == answer
    (image,) = report.images
    assert record["images"][0]["kept"] == image.kept.tolist()
    assert record["kv_cache_bytes"] == report.kv_bytes


def test_options_of_a_method(run, applied):
    record = run("--method", "zoo-prune,n_directions=2,seed=3", "--keep", 9)
    expected = applied(method=tokenprune.method("zoo-prune", n_directions=2, seed=3), keep=9)
    check(record, expected)
    assert record["images"] != run("--method", "zoo-prune", "--keep", 9)["images"]


def test_options_of_strategies_belong_to_the_one_before_them(run, applied):
    record = run("--scorer", "random,seed=5", "--selector", "topk", "--reducer", "absorb", "--keep", 9)
    expected = applied(scorer=tokenprune.scorer("random", seed=5), selector="topk", reducer="absorb", keep=9)
    check(record, expected)
    assert record["method"] == "random+topk+absorb"


def test_where_it_cuts(run, applied):
    where = {"stage": "decoder", "layer": [1, 3], "positions": "original"}
    options = ("--stage", "decoder", "--layer", "1,3", "--positions", "original")
    check(run("--method", "divprune", "--keep", 9, *options), applied(method="divprune", keep=9, **where))
    check(run("--method", "fastv", "--keep", 9, "--layer", 2), applied(method="fastv", keep=9, layer=2))


def test_a_schedule_and_what_a_budget_counts(run, applied):
    record = run("--method", "fastv,schedule={1:40,3:9}")
    check(record, applied(method="fastv", schedule={1: 40, 3: 9}))
    record = run("--method", "fastv,budget=average", "--keep", 60)
    check(record, applied(method="fastv", budget="average", keep=60))


def test_the_unpruned_answer_beside_the_pruned_one(run, applied, photo, untrained, tmp_path):
    options = ("--method", "divprune", "--keep", 1, "--compare")
    record = run(*options)
    answer, report = applied(method="divprune", keep=1)
    assert (record["answer"], record["unpruned_answer"]) == (answer, applied())
    done = invoke(photo, "--model", untrained, *options, "--save", tmp_path / "kept.png")
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"pruned:   {answer}", f"unpruned: {applied()}"]
    assert lines[2].startswith("divprune: 1 of 144 visual tokens kept")
    assert "unpruned_answer" not in run(*options[:-1])


@pytest.fixture(scope="module")
def clip(untrained_model, tmp_path_factory):
    """A CLIP with the model's image tower, as files."""
    model, processor = untrained_model
    torch.manual_seed(3)
    text = CLIPTextConfig(
        vocab_size=len(processor.tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
        initializer_factor=20.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=model.config.vision_config)).save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    return path


def test_a_clip_checkpoint_reads_the_question(run, applied, clip, untrained_model):
    tokenizer = untrained_model[1].tokenizer
    space = ClipSpace(CLIPModel.from_pretrained(clip).eval(), tokenizer, tokenizer)
    record = run("--method", "cdpruner", "--keep", 9, "--clip", clip)
    check(record, applied(method=tokenprune.method("cdpruner", clip=space), keep=9))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "zoo-prune,n_direction=16"], "method 'zoo-prune' has no option 'n_direction'; it has "),
        (["--method", "zoo-prune,n_directions=many"], "n_directions must be an integer, got 'many'"),
        (
            ["--method", "zoo-prune,n_directions"],
            "NAME,option=value,option=value, got 'zoo-prune,n_directions'",
        ),
        (["--method", "random,seed=1,seed=2"], "the option 'seed' is given twice"),
        (["--method", "random,seed=1", "--seed", "2"], "give either --seed or the option seed of the method"),
        (
            ["--method", "fastv,layer=2"],
            "layer is no option of the method 'fastv'; see tokenprune run --help",
        ),
        (["--method", "divprune,scope=tiles"], "scope must be one of 'image', 'tile', 'split', got 'tiles'"),
        (["--scorer", "zoo,scope=tile"], "scope is no option of the scorer 'zoo'"),
        (["--reducer", "absorbs"], "unknown reducer 'absorbs'. Did you mean 'absorb'?"),
        (["--method", "fastv", "--reducer", "absorb"], "not both"),
        (["--stage", "tower"], "stage must be one of 'vision', 'projector', 'decoder', got 'tower'"),
        (["--positions", "new"], "positions must be one of "),
        (["--layer", "two"], "--layer must be the index of a layer, from 0, or several as in 4,8; got 'two'"),
        (["--layer", "-1"], "got '-1'"),
        (["--clip", "x"], "clip requires method=cdpruner or scorer=relevance"),
        (["--method", "fastv,schedule={1:40}"], "leave out --keep and --keep-ratio"),
        (["--method", "fastv,schedule=3"], "a schedule has the form {layer:rows,layer:rows}, got 3"),
        (["--method", "fastv,schedule={1:4,3:9}"], "rows of a schedule must be at least 1 and not increase"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(photo, monkeypatch, options, said):
    monkeypatch.setattr("tokenprune_cli.commands.run.load_model", lambda *_: pytest.fail("loaded"))
    done = invoke(photo, "--keep", 9, *options)
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert said in line


@pytest.mark.parametrize("beside", ["reducer", "stage", "layer", "positions", "clip", "seed"])
def test_a_setting_file_has_all_of_it(photo, tmp_path, beside):
    done = invoke(photo, "--setting", tmp_path / "setting.json", f"--{beside}", "1")
    assert done.exit_code == 2
    assert f"--setting has the method and its budget; leave --{beside} out" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zoo-prune", ("zoo-prune", {})),
        ("a,b=1,c=0.5,d=true,e=False,f=none,g=word", (
            "a", {"b": 1, "c": 0.5, "d": True, "e": False, "f": None, "g": "word"})),
        ("a, b=[1,2], c={3:66,7:30}", ("a", {"b": [1, 2], "c": {3: 66, 7: 30}})),
    ],
)  # fmt: skip
def test_names_with_options(text, expected):
    assert split_options(text) == expected


def test_a_text_is_read_with_its_type():
    assert [read_text(text) for text in ("7", "1e-3", "TRUE", " x ")] == [7, 0.001, True, "x"]
