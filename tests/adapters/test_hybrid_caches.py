# SPDX-License-Identifier: Apache-2.0
"""Caches in which some layers hold a state (linear attention, convolutions) and others hold tokens."""

import copy
import functools
import pickle

import pytest
import tiny_families as families
import tiny_models
import torch
import transformers
from cache_names import CACHE, cache_of
from family_cases import KEEP, STATES, TOLERANCE, VERSION, generated
from packaging.version import Version
from reference.kept_rows import entered, kept_slots
from tiny_families import IMAGE, cut_row
from tiny_models import DECODER
from tokenprune_adapters.transformers import stock

import tokenprune

COUNTING = 3  # the first layer that holds tokens


def prefilled(model, inputs, **call):
    """Prefill a pruned model and return the call's cache with the report."""
    with tokenprune.apply(model, **{"method": "divprune", "keep": KEEP, **call}) as handle:
        cache = cache_of(model(**inputs, use_cache=True))
        return cache, handle.last


def states_of(layer):
    """Copies of the states a cache layer holds."""
    states = [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [state.clone() for state in states if state is not None]


@pytest.mark.parametrize("name", STATES)
def test_the_state_is_that_of_a_run_on_the_kept_rows_and_the_counting_layer_counts(name):
    model, inputs = families.model(name), families.inputs(name, (3, "I", 5))
    passed = entered(model, inputs)
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        cache = cache_of(model(**inputs, use_cache=True))
        keep = kept_slots(inputs["input_ids"][0], handle.last.images)
        n_seen, n_kept = len(keep), int(keep.sum())
        assert cache.get_seq_length() == n_seen
        assert tuple(cache.get_mask_sizes(1, 0)) == (n_kept + 1, n_seen - n_kept)
        assert cache.layers[COUNTING].keys.shape[2] == n_kept
    kept = transformers.DynamicCache(config=model.config.text_config)
    positions = passed["position_ids"][-3:][..., keep]
    counted = torch.arange(n_kept).expand(1, 1, -1)
    model.model.language_model(
        inputs_embeds=passed["inputs_embeds"][:, keep],
        position_ids=torch.cat([counted, positions]),
        use_cache=True,
        **{CACHE: kept},
    )
    for layer, reference in zip(cache.layers[:COUNTING], kept.layers[:COUNTING], strict=True):
        for state, expected in zip(states_of(layer), states_of(reference), strict=True):
            torch.testing.assert_close(state, expected, **TOLERANCE)


def two_turns(model, first, second):
    """Prefill one prompt, then a second one, with an image too, on the same cache; logits of the second."""
    kept = {CACHE: cache_of(model(**first, use_cache=True)), "use_cache": True}
    later = {name: value for name, value in second.items() if name != "attention_mask"}  # no row is padded
    logits = model(**later, **kept).logits[:, -1:]
    step = model(input_ids=torch.full((len(logits), 1), 7), **kept).logits
    return torch.cat([logits, step], 1)


def test_a_second_turn_continues_from_the_state():
    model = families.model("qwen3_5")
    first, second = families.inputs("qwen3_5", (5, "I", 5)), families.inputs("qwen3_5", (2, "I", 3), seed=2)
    with tokenprune.apply(model, method="divprune", keep=1000):
        everything = two_turns(model, first, second)
    torch.testing.assert_close(everything, two_turns(model, first, second), **TOLERANCE)
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        pruned = two_turns(model, first, second)
    assert (pruned - everything).abs().max() > 0.1


def test_a_batch_that_keeps_equal_numbers_continues_as_its_rows_alone():
    model = families.model("qwen3_5")
    first = families.inputs("qwen3_5", (5, "I", 3), (3, "I", 5))
    second = families.inputs("qwen3_5", (2, "I", 3), (2, "I", 3), seed=2)
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = two_turns(model, first, second)
        for row in range(2):
            alone = two_turns(model, cut_row("qwen3_5", first, row), cut_row("qwen3_5", second, row))
            torch.testing.assert_close(together[row], alone[0], **TOLERANCE)


@pytest.mark.parametrize("name", STATES)
def test_unequal_numbers_of_kept_tokens_after_a_cache_are_refused(name):
    """Padding inside the sequence would change the state: it decays it and enters the convolution."""
    model = families.model(name)
    first = families.inputs(name, (5, "I", 5), (5, "I", 5))
    rows = [torch.randint(2, 89, (1, 30)), torch.randint(2, 89, (1, 30))]
    rows[0][0, 2:26] = IMAGE
    ids = torch.cat(rows)
    picture = {key: families.inputs(name, (1, "I"))[key] for key in ("pixel_values", "image_grid_thw")}
    mask = torch.nn.functional.pad(first["attention_mask"], (0, 30), value=1)
    later = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == IMAGE).int(), **picture}
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        cache = cache_of(model(**first, use_cache=True))
        before = [states_of(layer) for layer in cache.layers[:COUNTING]]
        with pytest.raises(tokenprune.UnsupportedCallError, match="padding would change the states"):
            model(**later, **{CACHE: cache}, use_cache=True)
        after = [states_of(layer) for layer in cache.layers[:COUNTING]]
    for one, other in zip(before, after, strict=True):
        assert all(map(torch.equal, one, other))


def test_a_refused_crop_leaves_the_states_as_they_were():
    model, inputs = families.model("qwen3_5"), families.inputs("qwen3_5", (3, "I", 5))
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        cache = transformers.DynamicCache(config=model.config.text_config)
        cache.activate_past_recording()
        model(**inputs, **{CACHE: cache}, use_cache=True)
        before = [states_of(layer) for layer in cache.layers[:COUNTING]]
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be cropped into a pruned prompt"):
            cache.crop(-20)
        after = [states_of(layer) for layer in cache.layers[:COUNTING]]
        for one, other in zip(before, after, strict=True):
            assert all(map(torch.equal, one, other))
        assert cache.get_seq_length() == inputs["input_ids"].shape[1]


def test_copies_continue_alike_and_nothing_is_pickled_or_used_after_the_pruning():
    model, inputs = families.model("qwen3_5"), families.inputs("qwen3_5", (3, "I", 5))
    step = {"input_ids": torch.tensor([[7]]), "use_cache": True}
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        cache = cache_of(model(**inputs, use_cache=True))
        duplicate = copy.deepcopy(cache)
        assert duplicate.layers[0].counting is duplicate.layers[COUNTING]
        logits, of_duplicate = (model(**step, **{CACHE: kv}).logits for kv in (cache, duplicate))
        assert torch.equal(logits, of_duplicate)
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be pickled"):
            pickle.dumps(cache)
    with pytest.raises(tokenprune.StaleCacheError):
        model(**step, **{CACHE: cache})


@pytest.mark.skipif(VERSION < Version("5.19"), reason="a cache that is reset keeps zeroed slots")
def test_a_cache_that_is_reset_is_as_good_as_new():
    model, inputs = families.model("qwen3_5"), families.inputs("qwen3_5", (3, "I", 5))
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        out = model(**inputs, use_cache=True)
        cache = cache_of(out)
        cache.reset()
        again = model(**inputs, **{CACHE: cache}, use_cache=True)
        assert torch.equal(again.logits, out.logits)
        assert handle.last.images[0].n_after == KEEP


def test_bytes_of_states_are_not_counted():
    model, inputs = families.model("qwen3_5"), families.inputs("qwen3_5", (3, "I", 5))
    cache, report = prefilled(model, inputs)
    (image,) = report.images
    n = inputs["input_ids"].shape[1]
    keys = cache.layers[COUNTING].keys
    row_bytes = 2 * keys.shape[1] * keys.shape[3] * keys.element_size()
    assert report.kv_bytes_unpruned == n * row_bytes
    assert report.kv_bytes == (n - image.n_before + image.n_after) * row_bytes


def test_what_states_rule_out_is_refused():
    model, inputs = families.model("qwen3_5"), families.inputs("qwen3_5", (3, "I", 5))
    with pytest.raises(tokenprune.IncompatibleError, match="carry a state"):
        tokenprune.apply(model, method="fastv", keep=KEEP)
    packed = {
        **inputs,
        "position_ids": torch.arange(inputs["input_ids"].shape[1])[None, None].repeat(4, 1, 1),
    }
    packed["position_ids"][..., 28:] -= 28
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        with pytest.raises(tokenprune.UnsupportedCallError, match="one sequence in each row"):
            model(**{k: v for k, v in packed.items() if k != "attention_mask"}, use_cache=False)


@functools.cache
def lfm2():
    """A LLaVA over a language model of convolutions and attention in turns."""
    decoder = {name: value for name, value in DECODER.items() if name != "initializer_range"}
    decoder |= {"model_type": "lfm2", "layer_types": ["conv", "full_attention"] * 2}
    settings = {**tiny_models.llava().config.to_dict(), "text_config": decoder}
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape) * 1.5 / weight[0].numel() ** 0.5)
    model.generation_config.pad_token_id = tiny_models.PAD
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_a_llava_over_convolutions_equals_stock_code_fed_the_kept_rows(positions):
    model, inputs = lfm2(), tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(model, method="divprune", keep=KEEP, positions=positions) as handle:
        out, logits = generated(model, inputs)
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    tokens = out.sequences[0, len(keep) :]
    answer = model.get_input_embeddings()(tokens[None])
    rows = torch.cat([entered(model, inputs)["inputs_embeds"][:, keep], answer], 1)
    everything = torch.nn.functional.pad(keep, (0, len(tokens)), value=True)
    places = everything.nonzero().T if positions == "original" else torch.arange(rows.shape[1])[None]
    mask = torch.ones(1, rows.shape[1], dtype=torch.long)
    language = model.model.language_model
    output = language(inputs_embeds=rows, position_ids=places, attention_mask=mask, use_cache=False)
    expected = model.lm_head(output.last_hidden_state)[0, int(keep.sum()) - 1 : -1]
    torch.testing.assert_close(logits[0], expected, **TOLERANCE)


def test_a_padded_batch_over_convolutions_equals_its_rows_alone():
    model, inputs = lfm2(), tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = generated(model, inputs)[1]
        for row, parts in enumerate(((3, "I", 5), (2, "I", 4, "I", 3))):
            real = inputs["attention_mask"][row].bool()
            alone = {name: inputs[name][row : row + 1, real] for name in ("input_ids", "attention_mask")}
            images = slice(row, row + parts.count("I"))
            alone["pixel_values"] = inputs["pixel_values"][images]
            torch.testing.assert_close(together[row], generated(model, alone)[1][0], **TOLERANCE)


def test_tokens_after_a_pruned_prompt_are_cropped_from_convolutions_too():
    model, inputs = lfm2(), tiny_models.llava_inputs((3, "I", 5))
    step = {"use_cache": True}
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        logits = []
        for extra in ([], [8, 9]):
            cache = transformers.DynamicCache(config=model.config.text_config)
            cache.activate_past_recording()
            model(**inputs, **{CACHE: cache}, **step)
            cache.crop(0)
            if extra:
                model(input_ids=torch.tensor([extra]), **{CACHE: cache}, **step)
                cache.crop(-len(extra))
            logits.append(model(input_ids=torch.tensor([[7]]), **{CACHE: cache}, **step).logits)
        torch.testing.assert_close(*logits, **TOLERANCE)


def test_prompt_lookup_over_convolutions_gives_the_same_tokens():
    model, inputs = lfm2(), tiny_models.llava_inputs((9, "I", 9))
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        plain = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        looked_up = model.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            prompt_lookup_num_tokens=3,
            max_matching_ngram_size=1,
        )
    assert torch.equal(plain, looked_up)


class Layer:
    """A cache layer that derives from none of transformers'."""

    is_compileable = False

    def get_seq_length(self):
        return 0

    def get_mask_sizes(self, n):
        return n, 0


def test_cache_layers_of_an_unknown_form_are_refused():
    model, inputs = families.model("internvl"), families.inputs("internvl", (3, "I", 5))
    cache = transformers.DynamicCache(config=model.config.text_config)
    cache.layers[1] = Layer()
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        with pytest.raises(tokenprune.UnsupportedCallError, match="with a Layer, which derives from no"):
            model(**inputs, **{CACHE: cache}, use_cache=True)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["linear_attention"] * 4, "does not count tokens"),
        (["linear_attention", "full_attention", "hybrid", "full_attention"], "layers of the kind hybrid"),
    ],
)
def test_configurations_that_cannot_be_pruned(kinds, message):
    config = families.qwen3_5().text_config
    config.layer_types = kinds
    with pytest.raises(tokenprune.UnsupportedModelError, match=message):
        stock.check_kv(config)
