# SPDX-License-Identifier: Apache-2.0
"""What vLLM does besides answering one by one: caches, prefills in pieces, several answers, own budgets."""

import shutil

import pytest
from checkpoints import picture
from engines import Reference, ask, assert_same, engine, prompt
from safetensors.torch import load_file, save_file

import tokenprune

TALL = (64, 176)  # 8 x 22 tokens in Qwen2.5-VL
METHOD = {"llava": "divprune", "llava_next": "visionzip", "qwen": "zoo-exact"}
MODELS = tuple(METHOD)
METHOD |= {"qwen3_vl": "zoo-exact", "qwen3_vl_moe": "divprune", "gemma3": "divprune", "internvl": "zoo-exact"}
AT_NIGHT = [pytest.param(name, marks=pytest.mark.nightly) for name in METHOD if name not in MODELS]
KEEP = {"llava": 48, "llava_next": 250, "gemma3": 12, "internvl": 12}


def pruning(name, keep=None, **more):
    keep = keep or KEEP.get(name, 40)
    return {"method": METHOD[name], "keep": keep, **more}


def shape(name):
    return (96, 96) if name == "llava" else TALL


@pytest.mark.parametrize("name", [*MODELS, pytest.param("qwen3_vl", marks=pytest.mark.nightly)])
def test_a_cache_hit_that_ends_inside_a_picture_changes_nothing(name, checkpoint):
    one = picture(1, *shape(name))
    first, second = (prompt(name, f"w5 IMAGE {text}", one) for text in ("w3 w14 w15", "w30 w31 w7 w9"))
    two = prompt(name, "w5 IMAGE w3 w14 IMAGE w9", one, picture(2, *shape(name)))
    reference = Reference(checkpoint(name))
    with engine(checkpoint(name), pruning(name)) as llm:
        cold = ask(llm, [first])[0]
        hits = [ask(llm, [asked])[0] for asked in (second, two)]
    begin = 3 if name.startswith("qwen") else 2  # where the picture's rows do
    n_rows = cold.n_prompt - begin - 3 - name.startswith("qwen")
    assert cold.n_cached == 0
    for hit, asked in zip(hits, (second, two), strict=True):
        assert hit.n_cached > begin and hit.n_cached % 32 == 0 and hit.n_cached < begin + n_rows
        assert_same(hit, reference.answer(asked, pruning(name)))


@pytest.mark.parametrize("name", [*MODELS, *AT_NIGHT])
def test_a_prefill_in_pieces_changes_nothing(name, checkpoint):
    asked = [
        prompt(name, "w5 IMAGE w3 w14 w15", picture(1, *shape(name))),
        prompt(name, "w5 w6 IMAGE w3 IMAGE w15 w2", picture(2, *shape(name)), picture(3, *shape(name))),
    ]
    reference = Reference(checkpoint(name))
    with engine(checkpoint(name), pruning(name), max_num_batched_tokens=24) as llm:
        for one in asked:
            assert_same(ask(llm, [one])[0], reference.answer(one, pruning(name)))
        for answer, one in zip(ask(llm, asked), asked, strict=True):  # both at once
            assert_same(answer, reference.answer(one, pruning(name)))


@pytest.mark.parametrize("name", [*MODELS, *AT_NIGHT])
def test_requests_with_budgets_of_their_own(name, checkpoint):
    def own(**budget):
        asked = prompt(name, "w5 IMAGE w3 w14 w15", picture(1, *shape(name)))
        return {**asked, "mm_processor_kwargs": {"tokenprune": budget}} if budget else asked

    reference = Reference(checkpoint(name))
    keep = pruning(name)["keep"]
    with engine(checkpoint(name), pruning(name, max_keep=keep + 20)) as llm:
        budgets = [{}, {"keep": 10}, {"keep_ratio": 0.1}, {"keep": keep + 20}, {}]
        for answer, budget in zip(ask(llm, [own(**one) for one in budgets]), budgets, strict=True):
            expected = reference.answer(own(), {"method": METHOD[name], **(budget or {"keep": keep})})
            assert_same(answer, expected)
        with pytest.raises(ValueError, match="rows, but this engine allows"):
            ask(llm, [own(keep=keep + 21)])
        with pytest.raises(ValueError, match="keep must be at least 1"):
            ask(llm, [own(keep=0)])
        assert_same(ask(llm, [own()])[0], reference.answer(own(), pruning(name)))  # the engine lives on


def test_two_configurations_never_share_what_is_cached(checkpoint):
    asked = prompt("llava", "w5 IMAGE w3", picture(1))
    asked["multi_modal_uuids"] = {"image": ["the client's own name"]}
    names = set()
    for configured in (None, {"method": "stride", "keep": 48}, {"method": "stride", "keep": 47}):
        with engine(checkpoint("llava"), configured) as llm:
            processed = llm.llm_engine.renderer.render_cmpl([asked])
            names.add(processed[0]["mm_hashes"]["image"][0])
    assert len(names) == 3 and "the client's own name" in names


def test_several_answers_to_one_prompt(checkpoint):
    from vllm import SamplingParams

    asked = prompt("qwen", "w5 IMAGE w3 w14 w15", picture(1, *TALL))
    with engine(checkpoint("qwen"), pruning("qwen")) as llm:
        (output,) = llm.generate([asked], SamplingParams(n=3, seed=1, max_tokens=6, ignore_eos=True))
        alone = ask(llm, [asked])[0]
    assert [len(one.token_ids) for one in output.outputs] == [6, 6, 6]
    assert len({tuple(one.token_ids) for one in output.outputs}) > 1
    assert len(output.prompt_token_ids) == alone.n_prompt == 40 + 7


@pytest.mark.parametrize("name", [*MODELS, *AT_NIGHT])
def test_a_budget_of_all_tokens_is_the_unpruned_model(name, checkpoint):
    asked = [prompt(name, "w5 IMAGE w3 w14 w15", picture(1, *shape(name)))]
    reference = Reference(checkpoint(name)).answer(asked[0])
    with engine(checkpoint(name), {"method": METHOD[name], "keep_ratio": 1.0}) as llm:
        assert_same(ask(llm, asked)[0], reference)
    with engine(checkpoint(name)) as llm:
        assert_same(ask(llm, asked)[0], reference)


def test_without_a_configuration_processing_is_vllms_own(checkpoint):
    from vllm.model_executor.models import llava

    with engine(checkpoint("llava")) as llm:
        processor = llm.llm_engine.renderer.mm_processor
        model = llm.llm_engine.model_executor.driver_worker.get_model()
    assert type(processor) is llava.LlavaMultiModalProcessor
    assert type(processor.info) is llava.LlavaProcessingInfo
    hooked = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == [] and model.pruning is None


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen", *AT_NIGHT])
def test_the_tower_gets_no_more_at_once_than_without_pruning(name, checkpoint):
    """Many pictures come in one step; the tower takes them in parts, and the answers are the same."""
    shapes = [(96, 96)] * 4 if name == "llava" else [(96, 96), (160, 64), (64, 176), (120, 88)]
    asked = prompt(
        name, "w5 IMAGE w3 IMAGE w15 IMAGE w2 IMAGE", *(picture(i, *s) for i, s in enumerate(shapes))
    )
    pruning = {"method": "zoo-exact", "keep": 20}
    with engine(checkpoint(name), pruning, max_num_batched_tokens=2048) as llm:
        (together,) = ask(llm, [asked])
    limit = {"gemma3": 80, "internvl": 200}.get(name, 400)  # of the tokens of the four pictures
    with engine(checkpoint(name), pruning, max_num_batched_tokens=limit) as llm:
        model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
        sizes = []
        if name.startswith("qwen"):
            merger = model.visual.merger
            (merger.ln_q if name == "qwen" else merger.norm).register_forward_pre_hook(
                lambda module, args: sizes.append(args[0].shape[:-1].numel() // 4)
            )
        else:
            model.multi_modal_projector.register_forward_hook(
                lambda module, args, out: sizes.append(out.shape[:-1].numel())
            )
        (divided,) = ask(llm, [asked])
    assert len(sizes) > 1
    assert max(sizes) <= (432 if name == "llava_next" else limit)  # or one picture: three tower images of 144
    assert_same(divided, together)


def test_pictures_that_stay_whole_have_room(checkpoint):
    pruning = {"method": "stride", "keep": 9, "min_tokens": 1000}
    with engine(checkpoint("qwen"), pruning, max_num_batched_tokens=64) as llm:
        (found,) = ask(llm, [prompt("qwen", "w5 IMAGE w3", picture(1, 192, 192))])
    assert found.n_prompt > 140


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_weights_loaded_into_a_running_engine_are_read(name, checkpoint, tmp_path):
    """Another projector in a running engine: answers are those of an engine started with it."""
    asked = [prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96))]
    pruning, options = {"method": "zoo-exact", "keep": 20}, {"enable_prefix_caching": False}
    options["mm_processor_cache_gb"] = 0
    other = tmp_path / "other"
    shutil.copytree(checkpoint(name), other)
    weights = load_file(other / "model.safetensors")
    for key, value in weights.items():
        if any(word in key for word in ("multi_modal_projector", "merger")):
            weights[key] = value.roll(1, 0) * 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with engine(other, pruning, **options) as llm:
        (wanted,) = ask(llm, asked)
    with engine(checkpoint(name), pruning, **options) as llm:
        (before,) = ask(llm, asked)
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(other)})
        llm.llm_engine.reset_encoder_cache()
        (found,) = ask(llm, asked)
    assert before.logprobs != found.logprobs
    assert_same(found, wanted)


def test_pictures_no_unpruned_engine_would_take_are_refused(checkpoint):
    pruning = {"method": "divprune", "keep": 9}
    asked = prompt("qwen", "w5 IMAGE w3", picture(1, 800, 800))
    asked["mm_processor_kwargs"] = {"max_pixels": 10**7}
    with engine(checkpoint("qwen"), pruning, max_model_len=512) as llm:
        with pytest.raises(
            ValueError, match=r"image has \d+ tokens before pruning, but this engine accepts at most \d+"
        ):
            ask(llm, [asked])
        (found,) = ask(llm, [prompt("qwen", "w5 IMAGE w3", picture(1, 96, 96))])
    assert found.n_prompt < 20


@pytest.mark.parametrize("method", ["zoo-exact", "visionzip"])
def test_models_in_half_precision_answer(method, checkpoint):
    with engine(checkpoint("llava"), {"method": method, "keep": 9}, dtype="bfloat16") as llm:
        (found,) = ask(llm, [prompt("llava", "w5 IMAGE w3", picture(1, 96, 96))])
    assert found.n_prompt == 1 + 1 + 9 + 1


def test_a_calibrated_setting_is_what_its_entries_say(checkpoint, tmp_path):

    arguments = {"method": "divprune", "options": {}, "keep": 40, "seed": 0}
    model = {"name": "tiny", "architecture": "Qwen2_5_VLForConditionalGeneration", "weights": "0"}
    path = tmp_path / "setting.json"
    tokenprune.CalibratedSetting(arguments, model).save(path)
    asked = prompt("qwen", "w5 IMAGE w3 w14 w15", picture(1, *TALL))
    reference = Reference(checkpoint("qwen")).answer(asked, {"method": "divprune", "keep": 40})
    with engine(checkpoint("qwen"), {"setting": str(path)}) as llm:
        assert_same(ask(llm, [asked])[0], reference)
