# SPDX-License-Identifier: Apache-2.0
"""What people do with models besides calling them: right with pruning too, or refused in a sentence."""

import copy
import gc
import inspect
import io
import weakref
from concurrent.futures import ThreadPoolExecutor

import accelerate
import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from tiny_models import IMAGE, llava_inputs
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    StaticCache,
)

import tokenprune

ONE = (3, "I", 5)
GREEDY = {"max_new_tokens": 3, "do_sample": False}


@pytest.fixture
def model():
    """A model of the test's own."""
    return tiny_models.llava()


def logits(model, inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_threads_wait_for_each_other(model, method):
    many = [llava_inputs(ONE, seed=seed) for seed in range(8)]

    def generated(inputs):
        return model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True).logits[0]

    with tokenprune.apply(model, method=method, layer=2 if method == "fastv" else None, keep=4):
        want = [generated(inputs) for inputs in many]
        with ThreadPoolExecutor(4) as threads:
            got = list(threads.map(generated, many * 4))
    for number, found in enumerate(got):
        torch.testing.assert_close(found, want[number % 8])


def test_models_with_accelerates_hooks(model):
    inputs = llava_inputs(ONE)
    with tokenprune.apply(model, method="zoo-exact", keep=4):
        want = model.generate(**inputs, **GREEDY)
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True, main_device="cpu")
    with tokenprune.apply(model, method="zoo-exact", keep=4) as handle:
        assert torch.equal(model.generate(**inputs, **GREEDY), want)
        assert handle.last.n_after == 4


@pytest.mark.filterwarnings("ignore:You are calling .generate")  # of an older transformers
def test_an_offloaded_projector_is_refused_where_it_is_read(model):
    inputs = llava_inputs(ONE)
    with tokenprune.apply(model, method="divprune", keep=4):
        want = model.generate(**inputs, **GREEDY)
    accelerate.cpu_offload(model, execution_device="cpu")
    with pytest.raises(tokenprune.IncompatibleError, match="offloaded"):
        tokenprune.apply(model, method="zoo-exact", keep=4)
    with tokenprune.apply(model, method="divprune", keep=4):
        assert torch.equal(model.generate(**inputs, **GREEDY), want)


def test_images_encoded_beforehand(model):
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers takes no encoded images")
    first, second = llava_inputs(ONE, seed=1), llava_inputs(ONE, seed=2)
    with tokenprune.apply(model, method="zoo-exact", keep=4):
        want = logits(model, first)
        encoded = [model.model.get_image_features(one["pixel_values"]) for one in (first, second)]
        ids = {name: value for name, value in first.items() if name != "pixel_values"}
        got = model(**ids, mm_encoder_outputs={"image": encoded[0]}).logits
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("how", ["module", "inner", "forward"])
def test_code_compiled_before_is_made_anew(model, dynamo, how):
    inputs = llava_inputs(ONE)
    unpruned = logits(model, inputs)
    with tokenprune.apply(model, method="zoo-exact", keep=4):
        pruned = logits(model, inputs)
    if how == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        (model if how == "module" else model.model).compile(backend="eager")
    torch.testing.assert_close(logits(model, inputs), unpruned)
    with tokenprune.apply(model, method="zoo-exact", keep=4):
        torch.testing.assert_close(logits(model, inputs), pruned)
    torch.testing.assert_close(logits(model, inputs), unpruned)


@pytest.mark.parametrize("method", ["zoo-prune", "zoo-exact"])
def test_autocast_does_not_touch_scores(model, method):
    inputs = llava_inputs(ONE)
    model.model.vision_tower.requires_grad_(False)
    with tokenprune.apply(model, method=method, keep=4) as handle:
        logits(model, inputs)
        want = handle.last.images[0].scores
        with torch.autocast("cpu", torch.bfloat16):
            logits(model, inputs)
        ranks = [scores.argsort().argsort().double() for scores in (want, handle.last.images[0].scores)]
        logits(model, inputs)
        assert torch.equal(handle.last.images[0].scores, want)  # nothing of it was kept
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.95


@pytest.mark.parametrize("method", ["zoo-exact", "visionzip", "fastv", "pyramiddrop", "sparsevlm"])
def test_tokens_the_caller_hides_stay_hidden(model, method):
    inputs = llava_inputs(ONE, (2, "I", 6))
    hidden = inputs["attention_mask"].clone()
    hidden[0][inputs["input_ids"][0] == IMAGE] = 0
    inputs["attention_mask"] = hidden
    other = inputs["pixel_values"].clone()
    other[0] *= -1
    with tokenprune.apply(model, method=method, keep=4) as handle:
        one = logits(model, inputs)
        assert [image.n_after for image in handle.last.images] == [16, 4]
        assert handle.last.images[0].note == "hidden by the attention mask"
        two = logits(model, {**inputs, "pixel_values": other})
    torch.testing.assert_close(one[:, -1], two[:, -1])


@pytest.mark.parametrize("method", ["fastv", "dart", "pyramiddrop"])
def test_cuts_inside_layers_that_slide_are_refused(method):
    text = tiny_models.llava().config.text_config.to_dict()
    sizes = {name: value for name, value in text.items() if name in MistralConfig().to_dict()}
    text = MistralConfig(**{**sizes, "model_type": "mistral", "sliding_window": 8})
    config = LlavaConfig(
        vision_config=tiny_models.llava().config.vision_config, text_config=text, image_token_id=IMAGE
    )
    model = LlavaForConditionalGeneration(config).eval()
    with pytest.raises(tokenprune.IncompatibleError, match="sliding windows"):
        tokenprune.apply(model, method=method, keep=4)
    with tokenprune.apply(model, method="zoo-exact", keep=4) as handle:
        logits(model, llava_inputs(ONE))
        assert handle.last.n_after == 4


def test_a_qwen_that_slides_is_refused():
    model = tiny_models.qwen(use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(tokenprune.IncompatibleError, match="use_sliding_window"):
        tokenprune.apply(model, keep=4)


def test_a_copied_cache_ends_with_the_pruning(model):
    with tokenprune.apply(model, keep=4):
        cache = cache_of(model(**llava_inputs(ONE), use_cache=True))
        twin = copy.deepcopy(cache)
        more = {"input_ids": torch.tensor([[5]])}
        torch.testing.assert_close(
            model(**more, **{CACHE: cache}).logits, model(**more, **{CACHE: twin}).logits
        )
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be pickled or saved"):
            torch.save(cache, io.BytesIO())
    with pytest.raises(tokenprune.StaleCacheError):
        model(**more, **{CACHE: twin})


def test_an_emptied_static_cache_is_as_good_as_new(model):
    inputs = llava_inputs(ONE)
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    unpruned = model.generate(**inputs, **GREEDY)
    with tokenprune.apply(model, keep=4):
        model.generate(**inputs, **GREEDY, **{CACHE: cache})
    cache.reset()
    assert torch.equal(model.generate(**inputs, **GREEDY, **{CACHE: cache}), unpruned)
    cache.reset()
    with tokenprune.apply(model, keep=4):
        want = model.generate(**inputs, **GREEDY)
        assert torch.equal(model.generate(**inputs, **GREEDY, **{CACHE: cache}), want)
    with pytest.raises(tokenprune.StaleCacheError):
        model(input_ids=torch.tensor([[5]]), **{CACHE: cache})


def test_a_mask_planned_for_the_unpruned_sequence_is_refused(model):
    inputs = llava_inputs(ONE)
    length = inputs["input_ids"].shape[1]
    with tokenprune.apply(model, keep=4):
        cache = cache_of(model(**inputs, use_cache=True))
        tree = torch.ones(1, 1, 3, length + 3, dtype=torch.bool).tril(length)
        with pytest.raises(tokenprune.UnsupportedCallError, match="two-dimensional"):
            model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=tree, **{CACHE: cache})


def test_weights_changed_behind_torchs_back_are_read_again(model):
    inputs = llava_inputs(ONE)

    def scores():
        with tokenprune.apply(model, method="zoo-prune", keep=4) as handle:
            logits(model, inputs)
            return handle.last.images[0].scores

    with tokenprune.apply(model, method="zoo-prune", keep=4) as handle:
        logits(model, inputs)
        model.model.multi_modal_projector.linear_1.weight.data += 0.3
        logits(model, inputs)
        got = handle.last.images[0].scores
    assert torch.equal(got, scores())


@pytest.mark.parametrize("method", ["zoo-exact", "visionzip", "fastv"])
def test_a_dropped_model_is_freed(method):
    model = tiny_models.llava()
    tokenprune.apply(model, method=method, keep=4)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_pruned_model_is_not_copied(model):
    with tokenprune.apply(model, keep=4):
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be copied"):
            copy.deepcopy(model)
    copy.deepcopy(model)


def test_the_language_model_alone(model):
    ids = torch.tensor([[5, 6, 7]])
    want = model.model.language_model(input_ids=ids).last_hidden_state
    with tokenprune.apply(model, keep=4):
        assert torch.equal(model.model.language_model(input_ids=ids).last_hidden_state, want)


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune", "divprune", "fastv", "pool"])
def test_a_pixtral_tower(method):
    model = tiny_models.pixtral_llava()
    pictures = {"pixel_values": torch.randn(2, 3, 48, 48), "image_sizes": torch.tensor([[48, 32], [32, 32]])}
    ids = torch.tensor([[5, *[IMAGE] * 24, 7, *[IMAGE] * 16, 8, 9]])
    with tokenprune.apply(model, method=method, keep=4) as handle:
        model(input_ids=ids, **pictures)
        assert [image.n_after for image in handle.last.images] == [4, 4]
        assert [image.layout.grid for image in handle.last.images] == [(1, 6, 4), (1, 4, 4)]
        both = [image.kept.tolist() for image in handle.last.images]
    if method in ("zoo-exact", "zoo-prune", "divprune", "pool"):  # each picture for itself
        with tokenprune.apply(model, method=method, keep=4) as handle:
            second = {name: value[1:] for name, value in pictures.items()}
            model(input_ids=torch.tensor([[5, *[IMAGE] * 16, 8, 9]]), **second)
            assert handle.last.images[0].kept.tolist() == both[1]


def test_a_class_token_among_the_rows_is_no_token_to_look_from():
    model = tiny_models.llava()
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(tokenprune.IncompatibleError, match="cls_attention"):
        tokenprune.apply(model, method="visionzip", keep=4)


def test_a_call_that_projects_another_layer_is_refused(model):
    with tokenprune.apply(model, method="visionzip", keep=4):
        with pytest.raises(tokenprune.UnsupportedCallError, match="vision_feature_layer=-1"):
            model(**llava_inputs(ONE), vision_feature_layer=-1)


def test_no_attention_before_the_first_layer(model):
    for call in ({"layer": 0, "keep": 4}, {"schedule": {0: 4}}):
        with pytest.raises(tokenprune.IncompatibleError, match="none before layer 0"):
            tokenprune.apply(model, method="fastv", **call)


def test_a_handle_is_used_up_and_found_again(model):
    with tokenprune.apply(model, keep=4) as handle:
        assert tokenprune.active_handle(model) is handle
    assert tokenprune.active_handle(model) is None
    with pytest.raises(tokenprune.UnsupportedCallError, match="has been removed"), handle:
        pass
    tokenprune.apply(model, keep=4)
    with pytest.raises(tokenprune.AlreadyPrunedError, match="active_handle"):
        tokenprune.apply(model, keep=4)
    tokenprune.active_handle(model).remove()
    assert not tokenprune.is_pruned(model)


def test_wrappers_are_told_by_name(model):
    class PeftLike(torch.nn.Module):
        def get_base_model(self):
            return model

    for wrapper, words in ((PeftLike(), "get_base_model"), (torch.nn.DataParallel(model), "model.module")):
        with pytest.raises(tokenprune.UnsupportedModelError, match=words):
            tokenprune.apply(wrapper, keep=4)


def test_a_seed_torch_cannot_take_is_refused(model):
    for seed in (-1, 2**63):
        with pytest.raises(tokenprune.OptionError, match="seed must lie"):
            tokenprune.apply(model, method="random", keep=4, seed=seed)


def test_a_block_inside_its_own_block_is_refused(model):
    with tokenprune.apply(model, keep=4) as handle:
        with pytest.raises(tokenprune.UnsupportedCallError, match="already in a with block"):
            handle.__enter__()
        assert tokenprune.is_pruned(model)


@pytest.mark.parametrize("given", ["geometric", 3, [3, 4]])
def test_what_is_no_schedule_is_refused(model, given):
    with pytest.raises(tokenprune.OptionError, match=r"must be \{layer: rows\} or a tokenprune.Schedule"):
        tokenprune.apply(model, method="pyramiddrop", schedule=given, keep=4)


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm-plus"])
@pytest.mark.parametrize("layer", [2, [2], [1, 3], [0, 1, 2, 3]])
def test_layers_a_methods_schedule_has_no_rows_for_are_refused(model, name, layer):
    with pytest.raises(tokenprune.OptionError, match="lists have rows for 3 cuts, got layers"):
        tokenprune.apply(model, method=name, keep=4, layer=layer)
    assert not tokenprune.is_pruned(model)


@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "dart"])
def test_a_schedule_of_as_many_cuts_as_one_likes_takes_any_layers(model, name):
    for layer, cuts in ((2, {2: 4}), ([1, 3], {1: 8, 3: 4})):
        with tokenprune.apply(model, method=name, keep=4, layer=layer) as handle:
            model(**llava_inputs((3, "I", 5)))
            assert handle.last.images[0].cuts == cuts


@pytest.mark.parametrize("name", ["fastv", "sparsevlm", "divprune"])
def test_a_schedule_whose_rows_are_fewer_than_its_layers_is_refused(model, name):
    schedule = tokenprune.ExplicitSchedule((1, 3), (4,))
    with pytest.raises(tokenprune.OptionError, match=r"gives 1 numbers of rows for 2 layers \(1, 3\)"):
        tokenprune.apply(model, method=name, keep=4, schedule=schedule)


def test_budgets_of_several_cuts_that_rise_are_refused(model):
    with pytest.raises(tokenprune.BudgetError, match=r"must not increase, got keep=\[4, 8\]"):
        tokenprune.apply(model, method=["zoo-exact", "fastv"], keep=[4, 8])


def test_needs_that_are_no_set_are_refused(model):
    class Careless(tokenprune.Scorer):
        name, needs = "careless", "pre_features"

        def score(self, tokens):
            return tokens.signal("pre_features").norm(dim=-1)

    with pytest.raises(tokenprune.PluginError, match="must be a frozenset of names, got 'pre_features'"):
        tokenprune.apply(model, scorer=Careless(), keep=4)


def test_a_compiled_wrapper_is_told_by_name(model):
    with pytest.raises(tokenprune.UnsupportedModelError, match="torch.compile wraps the model"):
        tokenprune.apply(torch.compile(model), keep=4)
