# SPDX-License-Identifier: Apache-2.0
"""Bad input at the command line: one sentence on stderr, exit code 2, no traceback, nothing on stdout."""

import shutil
import subprocess
import sys

import pytest
from PIL import Image
from tokenprune_cli.app import app
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def files(tmp_path_factory, untrained):
    """Images and model folders, each wrong in its own way; and a good image."""
    folder = tmp_path_factory.mktemp("bad")
    Image.new("RGB", (40, 30), (200, 20, 20)).save(folder / "good.png")
    (folder / "words.jpg").write_text("no image at all")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "empty").mkdir()
    (folder / "nonsense").mkdir()
    (folder / "nonsense" / "config.json").write_text('{"model_type": "nonsense"}')
    (folder / "garbled").mkdir()
    (folder / "garbled" / "config.json").write_text("{{{")
    text_only = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    LlamaForCausalLM(text_only).save_pretrained(folder / "text")
    shutil.copytree(untrained, folder / "torn")
    weights = folder / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    shutil.copytree(untrained, folder / "no-weights", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(untrained, folder / "lacking")
    model = LlavaForConditionalGeneration.from_pretrained(untrained)
    state = {k: v for k, v in model.state_dict().items() if "language_model.layers.3" not in k}
    model.save_pretrained(folder / "lacking", state_dict=state)
    shutil.copytree(untrained, folder / "mute", ignore=shutil.ignore_patterns("chat_template.jinja"))
    return folder


def refused(*arguments):
    """What a command says on stderr; everything else about the refusal is checked here."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tokenprune: ")
    assert "Traceback" not in result.stderr
    return lines[0].removeprefix("tokenprune: ")


def run(files, *more, image="good.png"):
    return refused("run", "--image", files / image, "--prompt", "what is this ?", *more)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "0"], "keep must be at least 1 (every image keeps a token), got 0"),
        (["--keep", "-3"], "keep must be at least 1 (every image keeps a token), got -3"),
        (["--keep", "1.5"], "keep must be an integer, the visual tokens kept per image, got 1.5"),
        (["--keep", "many"], "keep must be an integer, the visual tokens kept per image, got 'many'"),
        (["--keep-ratio", "0"], "keep_ratio must lie in (0, 1], got 0"),
        (["--keep-ratio", "1.01"], "keep_ratio must lie in (0, 1], got 1.01"),
        (["--keep-ratio", "half"], "keep_ratio must be a number in (0, 1], got 'half'"),
        (["--keep-ratio", "nan"], "keep_ratio must lie in (0, 1], got nan"),
        (["--keep", "9", "--keep-ratio", "0.5"], "got both"),
        ([], "got neither"),
    ],
)
def test_budgets(files, options, said):
    assert said in run(files, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "zoo-prun"], "unknown method 'zoo-prun'. Did you mean 'zoo-prune'"),
        (["--method", "divers"], "Available: "),
        (["--scorer", "zoom"], "unknown scorer 'zoom'. Did you mean 'zoo'?"),
        (["--selector", "divers"], "unknown selector 'divers'. Did you mean 'diverse'?"),
        (["--method", "random", "--scorer", "zoo"], "not both"),
    ],
)
def test_names(files, options, said):
    assert said in run(files, "--keep", 9, *options)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("none.png", "does not exist"),
        ("words.jpg", "is not an image that can be read"),
        ("cut.png", "cannot be read"),
        ("empty", "is a directory"),
        ("a" * 5000, "does not exist"),
    ],
)
def test_images(files, image, said):
    message = run(files, "--keep", 9, image=image)
    assert said in message and str(files / image) in message


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("none", "there is no such directory"),
        ("good.png", "it is a file"),
        ("empty", "no config.json"),
        ("nonsense", "`nonsense`"),
        ("garbled", "does not load"),
        ("text", "type 'llama', which is no image-and-text chat model"),
        ("torn", "does not load"),
        ("no-weights", "does not load"),
        ("lacking", "its files lack 9 weights, model.language_model.layers.3."),
        ("mute", "chat template"),
    ],
)
def test_models(files, folder, said):
    message = run(files, "--keep", 9, "--model", files / folder)
    assert said in message and f"the model '{files / folder}'" in message


def test_a_model_no_adapter_knows(files, untrained, monkeypatch):
    import tokenprune

    registry = tokenprune.default_registry()
    plugins = {registry.origin("adapter", name).name for name in registry.names("adapter")}
    monkeypatch.setenv("TOKENPRUNE_DISABLE_PLUGINS", ",".join(plugins))
    tokenprune.default_registry.cache_clear()
    try:
        message = run(files, "--keep", 9, "--model", untrained)
    finally:
        tokenprune.default_registry.cache_clear()
    assert "no adapter knows" in message and "LlavaForConditionalGeneration" in message


def test_a_method_the_model_cannot_use(files, untrained):
    message = run(files, "--keep", 9, "--method", "cdpruner", "--model", untrained)
    assert "clip_text_embeds" in message
    assert "clip=" in message and "tokenprune_adapters.clip_space.ClipSpace" in message
    message = refused("demo", "--method", "cdpruner", "--model", untrained, "--output", files / "demo")
    assert "clip_text_embeds" in message and "ClipSpace" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [("kept.noformat", "no image file extension"), ("none/kept.png", "does not exist")],
)
def test_pictures_that_cannot_be_saved(files, untrained, name, said):
    assert said in run(files, "--keep", 9, "--model", untrained, "--save", files / name)


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt(files, untrained, prompt):
    options = ["--keep", 9, "--model", untrained]
    assert refused("run", "--image", files / "good.png", "--prompt", prompt, *options).startswith(
        "--prompt is empty"
    )


@pytest.mark.parametrize("bad", ["\0", "\ud800", "\udcff"], ids=ascii)
def test_a_prompt_with_what_is_no_character(files, monkeypatch, bad):
    monkeypatch.setattr("tokenprune_cli.commands.run.load_model", lambda *_: pytest.fail("loaded"))
    said = refused("run", "--image", files / "good.png", "--prompt", f"a {bad} b", "--keep", 9)
    assert said == f"--prompt contains {bad!r}, which is not allowed; remove it"


def test_a_prompt_that_holds_the_sign_of_a_picture(files, untrained):
    options = ["--keep", 9, "--model", untrained]
    said = refused("run", "--image", files / "good.png", "--prompt", "a <image> of what ?", *options)
    assert said.startswith("--prompt contains '<image>', which stands for an image; remove it")


@pytest.mark.parametrize("seed", [-1, 2**63])
@pytest.mark.parametrize("command", ["run", "demo", "compare"])
def test_seeds_outside_their_range_are_refused_before_anything_is_loaded(files, monkeypatch, command, seed):
    monkeypatch.setattr("tokenprune_cli.console.models.load_model", lambda *_: pytest.fail("loaded"))
    more = ["--image", files / "good.png", "--prompt", "q", "--keep", "9"] if command == "run" else []
    result = CliRunner().invoke(app, [command, *map(str, more), "--seed", str(seed)])
    assert result.exit_code == 2 and result.stdout == ""
    assert "'--seed'" in result.stderr and "Traceback" not in result.stderr


def test_a_message_that_goes_on_after_a_colon_is_not_cut_there():
    from tokenprune_cli.console.failures import first_line

    assert first_line(ValueError("\nno such thing:\n  - a.json\nmore")) == "no such thing: - a.json"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("only this:")) == "only this:"
    assert first_line(ValueError()) == "ValueError"


def test_no_gpu(files, untrained, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no usable NVIDIA GPU" in run(files, "--keep", 9, "--model", untrained, "--device", "cuda")


def test_lists(files):
    assert "Did you mean 'methods'?" in refused("list", "methds")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "0"], "keep must be at least 1"),
        (["--keep", "9", "--keep", "1.5"], "keep must be an integer"),
        (["--method", "zoo-prun"], "Did you mean 'zoo-prune'"),
        (["--model", "/none"], "there is no such directory"),
    ],
)
def test_the_demo(tmp_path, options, said):
    assert said in refused("demo", "--output", tmp_path / "out", *options)


def test_the_demo_cannot_write_where_a_file_is(files):
    assert "cannot be made" in refused("demo", "--output", files / "good.png")


def test_what_typer_refuses_also_exits_with_2(files):
    for wrong in (["run"], ["nonsense"], ["run", "--keep"], ["demo", "--scenes", "0"]):
        assert CliRunner().invoke(app, wrong).exit_code == 2


def test_a_real_process_gives_one_sentence_and_exit_code_2(files):
    arguments = ["run", "--image", str(files / "none.png"), "--prompt", "q", "--keep", "9"]
    done = subprocess.run(
        [sys.executable, "-m", "tokenprune_cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"tokenprune: the image file '{files / 'none.png'}' does not exist\n"
