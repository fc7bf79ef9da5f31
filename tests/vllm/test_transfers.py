# SPDX-License-Identifier: Apache-2.0
"""Engines that pass on what they computed: rows of pictures (encoder, decoder), or keys and values."""

import contextlib

import pytest
import torch
from checkpoints import picture
from engines import Reference, ask, assert_same, engine, prompt
from test_video import asked as asked_with_video

TALL, WIDE = (64, 176), (96, 80)  # 8 x 22 and 12 x 10 tokens in Qwen2.5-VL
PRUNING = {"method": "zoo-exact", "keep": 40, "max_keep": 60}
KEEP_40 = {"method": "zoo-exact", "keep": 40}
NO_TOWER = {"image": 0, "video": 0}


@contextlib.contextmanager
def encoder(folder, store, pruning=PRUNING):
    """An engine that writes rows to the folder `store`, and has no language model."""
    with engine(folder, pruning, ec_transfer_config=rows(store, "ec_producer")) as llm:
        yield llm


def rows(store, role):
    from vllm.config import ECTransferConfig

    options = {"shared_storage_path": str(store)}
    return ECTransferConfig(
        ec_connector="ECExampleConnector", ec_role=role, ec_connector_extra_config=options
    )


def keys_and_values(store):
    from vllm.config import KVTransferConfig

    where = {"shared_storage_path": str(store)}
    return KVTransferConfig(
        kv_connector="ExampleConnector", kv_role="kv_both", kv_connector_extra_config=where
    )


def encode(llm, asked):
    """Let an encoder run; the identifiers and fields of the request's items, in the order of the prompt."""
    from vllm import SamplingParams

    (output,) = llm.generate([asked], SamplingParams(max_tokens=1), use_tqdm=False)
    found = sorted(output.ec_transfer_params.items(), key=lambda item: item[1]["item_indices"])
    return [(name, item["metadata"]) for name, item in found]


def without_pixels(asked, encoded, **more):
    """The request with what an encoder returned for it in place of pixels."""
    data, names = {}, {}
    for modality in asked["multi_modal_data"]:
        field = f"{modality}_grid_thw"
        mine = [(name, fields[field]) for name, fields in encoded if field in fields]
        data[modality] = {field: torch.tensor([grid for _, grid in mine])}
        names[modality] = [name for name, _ in mine]
    for modality, fields in more.items():
        data[modality] |= fields
    return {"prompt": asked["prompt"], "multi_modal_data": data, "multi_modal_uuids": names}


def own(asked, **budget):
    return {**asked, "mm_processor_kwargs": {"tokenprune": budget}}


def test_rows_of_an_encoder_are_answered_as_in_one_engine(checkpoint, tmp_path):
    """The encoder has no language model, and the other engine no tower."""
    folder, method = checkpoint("qwen"), {"method": "zoo-exact"}
    two = prompt("qwen", "w5 IMAGE w3 w14 IMAGE w9", picture(1, *TALL), picture(2, *WIDE))
    one = prompt("qwen", "w7 IMAGE w3", picture(3, *TALL))
    video = asked_with_video(with_picture=True)
    with encoder(folder, tmp_path) as llm:
        for_two, for_video = encode(llm, two), encode(llm, video)
        for_more, for_share = (
            encode(llm, own(one, **budget)) for budget in ({"keep": 55}, {"keep_ratio": 0.1})
        )
    reference = Reference(folder)
    consumer = {"ec_transfer_config": rows(tmp_path, "ec_consumer"), "limit_mm_per_prompt": NO_TOWER}
    seconds = {"second_per_grid_ts": torch.tensor([1.0])}  # two frames at two frames a second
    with engine(folder, PRUNING, **consumer) as llm:
        (found,) = ask(llm, [without_pixels(two, for_two)])
        assert_same(found, reference.answer(two, KEEP_40))
        (found,) = ask(llm, [{**without_pixels(two, for_two), "mm_processor_kwargs": {"max_pixels": 9000}}])
        assert_same(found, reference.answer(two, KEEP_40))
        (found,) = ask(llm, [without_pixels(video, for_video, video=seconds)])
        assert_same(found, reference.answer(video, KEEP_40))
        for encoded, budget in ((for_more, {"keep": 55}), (for_share, {"keep_ratio": 0.1})):
            expected = reference.answer(one, {**method, **budget})
            for request in (without_pixels(one, encoded), own(without_pixels(one, encoded), **budget)):
                assert_same(ask(llm, [request])[0], expected)
        _refused(llm, without_pixels(two, for_two), without_pixels(one, for_more))
        with pytest.raises(ValueError, match="needs second_per_grid_ts"):
            ask(llm, [without_pixels(video, for_video)])
        (found,) = ask(llm, [without_pixels(one, for_more)])  # the engine lives on
        assert_same(found, reference.answer(one, {**method, "keep": 55}))


def _refused(llm, two, one):
    """Requests whose rows cannot be found, or would not fit."""
    (name,) = one["multi_modal_uuids"]["image"]
    for other in ("0" * 64, name.partition("-")[0], name.replace("-keep-55", "-whole"), name + "-keep-x"):
        with pytest.raises(ValueError, match="neither pixels nor rows for the item '"):
            ask(llm, [{**one, "multi_modal_uuids": {"image": [other]}}])
    with pytest.raises(ValueError, match="neither pixels nor rows for the item None"):
        ask(llm, [{**one, "multi_modal_uuids": {}}])
    with pytest.raises(ValueError, match="keep=40 and keep=55: send them in separate requests"):
        ask(llm, [own(one, keep=40)])
    mixed = {"image": [two["multi_modal_uuids"]["image"][0], name]}
    with pytest.raises(ValueError, match="keep=40 and keep=55: send them in separate requests"):
        ask(llm, [{**two, "multi_modal_uuids": mixed}])
    with pytest.raises(ValueError, match="this engine allows 60"):
        ask(llm, [{**one, "multi_modal_uuids": {"image": [name.replace("55", "61")]}}])


def test_an_encoder_prefill_and_decoder_answer_as_one_engine(checkpoint, tmp_path):
    """LLaVA's rows are found by its pixels; the third engine finds keys and values of most of the picture."""
    folder, reference = checkpoint("llava"), Reference(checkpoint("llava"))
    asked, other, another = _three_prompts("llava", (96, 96))
    with encoder(folder, tmp_path / "rows") as llm:
        ((name, fields),) = encode(llm, asked)
    assert (tmp_path / "rows" / name).exists() and fields == {}
    consumer = {"ec_transfer_config": rows(tmp_path / "rows", "ec_consumer")}
    options = {"kv_transfer_config": keys_and_values(tmp_path / "kv")}
    with engine(folder, PRUNING, **options, **consumer) as llm:
        model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
        model.vision_tower.register_forward_hook(lambda *_: pytest.fail("the tower ran"))
        assert_same(ask(llm, [asked])[0], reference.answer(asked, KEEP_40))
        named = {**asked, "multi_modal_uuids": {"image": [name]}}
        whole = {**named, "multi_modal_data": {"image": torch.zeros(1, 144, 128)}}
        assert [answer.n_prompt for answer in ask(llm, [whole, named])] == [5 + 144, 5 + 40]
    with _decoder(folder, options, reference, (asked, other, another)):
        pass


def test_keys_and_values_with_positions_of_three_axes(checkpoint, tmp_path):
    """Also where they are all that the decoder gets of a picture, and of its budget."""
    folder, reference = checkpoint("qwen"), Reference(checkpoint("qwen"))
    prompts = _three_prompts("qwen", TALL)
    small = prompt("qwen", f"w5 IMAGE {'w3 w14 ' * 16}", picture(3, *WIDE))
    options = {"kv_transfer_config": keys_and_values(tmp_path)}
    with engine(folder, PRUNING, **options) as llm:
        assert_same(ask(llm, [prompts[0]])[0], reference.answer(prompts[0], KEEP_40))
        (expected,) = ask(llm, [own(small, keep=10)])
        (processed,) = llm.llm_engine.renderer.render_cmpl([own(small, keep=10)])
    (name,) = processed["mm_hashes"]["image"]
    assert_same(expected, reference.answer(small, {"method": "zoo-exact", "keep": 10}))
    with _decoder(folder, options, reference, prompts) as llm:
        (found,) = ask(llm, [without_pixels(small, [(name, {"image_grid_thw": [1, 20, 24]})])])
    assert_same(found, expected)
    assert found.n_cached == 32


def _three_prompts(name, shape):
    """A prompt, another question about its picture, and the same question about another picture."""
    one, two = picture(1, *shape), picture(2, *shape)
    asked, other = (prompt(name, f"w5 IMAGE {text}", one) for text in ("w3 w14 w15", "w30 w31"))
    return asked, other, prompt(name, "w5 IMAGE w3 w14 w15", two)


@contextlib.contextmanager
def _decoder(folder, options, reference, prompts):
    """An engine with the keys and values of the first prompt, which uses those of its 32 first tokens."""
    with engine(folder, PRUNING, **options) as llm:
        for asked, n_cached in zip(prompts, (32, 32, 0), strict=True):
            (found,) = ask(llm, [asked])
            assert_same(found, reference.answer(asked, KEEP_40))
            assert found.n_cached == n_cached
        yield llm
