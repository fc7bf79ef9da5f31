# SPDX-License-Identifier: Apache-2.0
"""The model that lmms-eval runs answers as transformers' own `generate` does, in batches and alone."""

import pytest
import tiny_models as tm
import tiny_processors as tp
import torch
from lmms_eval.api.instance import Instance
from tokenprune_adapters.clip_space import ClipSpace
from tokenprune_lmms_eval.model import TokenPrune
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
)

import tokenprune
from tokenprune.setting import fingerprint

DOCS = [
    {"pictures": [tp.noise(40, 60)], "text": "what is in this picture ?"},
    {"pictures": [tp.noise(64, 40, seed=1), tp.noise(32, 32, seed=2)], "text": "is this the one before ?"},
    {"pictures": [], "text": "what is the video ?"},
    {"pictures": [tp.noise(30, 64, seed=3)], "text": "what ?"},
]
TASK, SPLIT = "pictures", "test"
GREEDY = {"max_new_tokens": 5, "temperature": 0, "do_sample": False}


def messages(doc):
    """As lmms-eval makes them of a picture task."""
    pictures = [{"type": "image", "url": picture} for picture in doc["pictures"]]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": doc["text"]}]}]


def requests(generation=GREEDY, docs=(0, 1, 2, 3)):
    return [
        Instance(
            request_type="generate_until",
            arguments=("", messages, dict(generation), number, TASK, SPLIT),
            idx=0,
            metadata={"task": TASK, "doc_id": number, "repeats": 1},
        )
        for number in docs
    ]


@pytest.fixture(scope="module", params=["llava", "llava_next", "qwen"])
def folder(request, tmp_path_factory):
    """A checkpoint with its processor beside it, as files."""
    path = tmp_path_factory.mktemp(request.param)
    getattr(tm, request.param)().save_pretrained(path)
    getattr(tp, request.param)().save_pretrained(path)
    return path


def made(folder, **arguments):
    model = TokenPrune(pretrained=str(folder), device="cpu", **arguments)
    model.task_dict = {TASK: {SPLIT: DOCS}}
    return model


def answers(model, asked=None):
    return [result.text for result in model.generate_until(requests() if asked is None else asked)]


def by_hand(folder, **pruning):
    """Each question alone, through transformers."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    if pruning:
        tokenprune.apply(model, **pruning)
    texts = []
    for doc in DOCS:
        kinds = [{"type": "image"} for _ in doc["pictures"]] + [{"type": "text", "text": doc["text"]}]
        conversation = [{"role": "user", "content": kinds}]
        prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
        inputs = processor(images=doc["pictures"] or None, text=prompt, return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        texts.append(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("size", [1, 3])
def test_unpruned_it_answers_as_generate(folder, size):
    model = made(folder, method="unpruned", batch_size=size)
    assert answers(model) == by_hand(folder)
    assert not tokenprune.is_pruned(model.model)


@pytest.mark.parametrize("size", ["1", "3"])
def test_pruned_it_answers_as_the_pruned_model(folder, size):
    model = made(folder, method="divprune", keep=3, batch_size=size)
    assert answers(model) == by_hand(folder, method="divprune", keep=3)


def test_a_setting_file_prunes_the_model_it_was_calibrated_on(folder, tmp_path):
    network = AutoModelForImageTextToText.from_pretrained(folder)
    about = {"name": folder.name, "architecture": type(network).__name__, "weights": fingerprint(network)}
    setting = tokenprune.CalibratedSetting({"method": "divprune", "options": {}, "keep": 3, "seed": 0}, about)
    setting.save(tmp_path / "setting.json")
    model = made(folder, setting=str(tmp_path / "setting.json"), batch_size=2)
    assert answers(model) == by_hand(folder, method="divprune", keep=3)
    other = tokenprune.CalibratedSetting(setting.arguments, {**about, "weights": "0"})
    other.save(tmp_path / "other.json")
    with pytest.raises(tokenprune.InputError, match="other weights or another dtype"):
        made(folder, setting=str(tmp_path / "other.json"))


def test_attention_and_devices_are_those_that_were_named(folder, monkeypatch):
    asked, load = {}, AutoModelForImageTextToText.from_pretrained

    def record(source, **options):
        asked.update(options)
        return load(source, **options)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", record)
    model = TokenPrune(
        pretrained=str(folder), method="divprune", keep=3, attn_implementation="eager", device_map="cpu"
    )
    assert model.model.config.get_text_config()._attn_implementation == "eager"
    assert asked["device_map"] == "cpu" and model.device.type == "cpu" and "revision" not in asked
    model.task_dict = {TASK: {SPLIT: DOCS}}
    assert answers(model) == by_hand(folder, method="divprune", keep=3)


def test_the_revision_reaches_the_hub(monkeypatch):
    from tokenprune_adapters import loading
    from transformers import AutoConfig

    asked = []

    def refuse(source, **options):
        asked.append((source, options["revision"]))
        raise OSError("offline")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(tokenprune.InputError, match="does not load: offline"):
        loading.load_model("owner/name", revision="v2")
    assert asked == [("owner/name", "v2")]


def test_pruning_changes_something(folder):
    assert by_hand(folder) != by_hand(folder, method="divprune", keep=3)


def test_other_ways_to_prune(folder):
    model = made(folder, scorer="random", selector="topk", keep_ratio=0.5, seed=7, min_tokens=2, batch_size=2)
    pruning = {"scorer": "random", "selector": "topk", "keep_ratio": 0.5, "seed": 7}
    assert answers(model) == by_hand(folder, **pruning)
    layered = made(folder, method="fastv", schedule="{1:6,2:3}")
    assert answers(layered) == by_hand(folder, method="fastv", schedule={1: 6, 2: 3})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP with the tiny LLaVA's image tower, as files."""
    torch.manual_seed(3)
    text = CLIPTextConfig(
        vocab_size=99,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=tm.BOS,
        eos_token_id=tm.EOS,
        initializer_factor=20.0,
    )
    path = tmp_path_factory.mktemp("clip")
    config = CLIPConfig(text_config=text, vision_config=tm.llava().config.vision_config)
    CLIPModel(config).save_pretrained(path)
    tp.llava().tokenizer.save_pretrained(path)
    return path


def test_cdpruner_reads_the_question_with_the_clip_that_is_named(tmp_path, clip):
    tm.llava().save_pretrained(tmp_path)
    tp.llava().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    space = ClipSpace(CLIPModel.from_pretrained(clip).eval(), tokenizer, tp.llava().tokenizer)
    method = tokenprune.method("cdpruner", clip=space)
    model = made(tmp_path, method="cdpruner", keep=3, clip=str(clip), batch_size=3)
    assert answers(model) == by_hand(tmp_path, method=method, keep=3)


def test_tokens_are_counted(folder):
    model = made(folder, method="unpruned", batch_size=4)
    found = [result.token_counts for result in model.generate_until(requests())]
    alone = [model.prompts.inputs([model._conversation(one)])["input_ids"].shape[1] for one in requests()]
    assert [counts.input_tokens for counts in found] == alone
    assert all(1 <= counts.output_tokens <= 5 for counts in found)


def test_an_answer_ends_where_the_task_says(folder):
    model = made(folder, method="unpruned", batch_size=4)
    whole = answers(model)
    stop = whole[0].split()[1]
    found = answers(model, requests(GREEDY | {"until": [stop, "\n\n"]}))
    assert found == [text.split(stop)[0] for text in whole]
    assert model.generate_until(requests(GREEDY | {"until": stop}, [0]))[0].token_counts.output_tokens == 2


def test_requests_with_other_arguments_keep_their_places(folder):
    model = made(folder, method="unpruned", batch_size=4)
    mixed = [requests({"max_new_tokens": n}, [doc])[0] for doc, n in ((3, 1), (0, 2), (2, 1), (1, 2))]
    alone = [answers(model, [one])[0] for one in mixed]
    assert answers(model, mixed) == alone
    assert [len(text.split()) for text in alone] == [1, 2, 1, 2]


def test_the_run_says_what_was_kept(folder):
    from loguru import logger

    lines = []
    sink = logger.add(lines.append, level="INFO")
    try:
        answers(made(folder, method="divprune", keep=3, batch_size=2))
        answers(made(folder, method="unpruned"))
    finally:
        logger.remove(sink)
    said = [line for line in lines if "visual rows per image" in line]
    assert len(said) == 1 and "process 0 of 1: divprune keep=3 kept 3.0 of" in said[0]
    assert "means over 4 images" in said[0]


def test_an_argument_of_the_task_that_is_not_used_is_named(folder):
    from loguru import logger

    lines = []
    sink = logger.add(lines.append, level="WARNING")
    try:
        answers(made(folder, method="unpruned"), requests(GREEDY | {"image_aspect_ratio": "original"}))
    finally:
        logger.remove(sink)
    assert [line for line in lines if "image_aspect_ratio" in line and "is ignored" in line]


def test_what_it_cannot_do_is_refused(folder):
    model = made(folder, method="unpruned")
    for ask in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="supports tasks"):
            ask([])


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("method=zoo-prune,keep=9", {}, "--model_args must name a checkpoint"),
        ("pretrained", {}, "--model_args must have the form name=value,name=value, got 'pretrained'"),
        (
            "pretrained=embedded,method=zoo-prune,keep=9",
            {"batch_size": "auto"},
            "--batch_size must be an integer",
        ),
        ("pretrained=embedded,batch_size=2,keep=9", {"batch_size": 1}, "pass batch_size as --batch_size"),
        ("pretrained=embedded,method=zoo-prune,keep=9", {"device": "tpu"}, "--device must be cpu"),
        ("pretrained=embedded,method=zoo-prune,keep=9,max_pixels=9", {}, "all images to one size"),
        ("pretrained=embedded,method=fastv,keep=9,layer=40", {}, "the model has 12 layers"),
        (
            "pretrained=embedded,method=divprune,keep=9,clip=x/y",
            {},
            "clip requires method=cdpruner or",
        ),
        ("pretrained=embedded,method=cdpruner,keep=9,clip=./nothing", {}, "clip: './nothing' does not load"),
        ("pretrained=./nothing,method=zoo-prune,keep=9", {}, "there is no such directory"),
        ("pretrained=embedded,method=unpruned,revision=main", {}, "requires a model id on the Hub"),
        (
            "pretrained=embedded,method=unpruned,attn_implementation=fast",
            {},
            "the embedded model does not load",
        ),
        (
            "pretrained=embedded,method=unpruned,device_map=auto",
            {"device": "cpu"},
            "device_map=auto cannot be combined with --device cpu",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, text, more, said):
    with pytest.raises(SystemExit) as ended:
        TokenPrune.create_from_arg_string(text, more)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("tokenprune: ") and said in lines[-1]
