# SPDX-License-Identifier: Apache-2.0
"""Calls that take the engine's rarer ways: refused in words, or answered as by hand or unpruned."""

import copy
import threading

import pytest
import tiny_families
import tiny_models
import torch
import transformers
from cache_names import CACHE, cache_of
from reference import llava_by_hand
from tiny_models import llava_inputs
from tokenprune_adapters.transformers.capture import _equal
from tokenprune_adapters.transformers.images import locate

import tokenprune

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
ENCODES_FIRST = hasattr(transformers.GenerationMixin, "_supports_mm_encoder_outputs")
brings_features = pytest.mark.skipif(not ENCODES_FIRST, reason="images are encoded inside forward only")


@pytest.fixture
def model():
    """A model of the test's own."""
    return tiny_models.llava()


def without_pixels(inputs):
    return {name: value for name, value in inputs.items() if name != "pixel_values"}


# -- features that a call brings


@brings_features
def test_features_that_were_encoded_before_the_model_was_pruned_are_refused(model):
    inputs = llava_inputs((3, "I", 5))
    features = model.model.get_image_features(inputs["pixel_values"])
    words = "image features that were not encoded by this model while it was pruned; pass pixel values"
    with tokenprune.apply(model, keep=5) as handle:
        with pytest.raises(tokenprune.UnsupportedCallError, match=words):
            model.model(**without_pixels(inputs), mm_encoder_outputs={"image": features})
        assert handle.last is None


@brings_features
def test_features_that_are_not_the_encoded_ones_are_refused(model):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(model, keep=5) as handle:
        features = model.model.get_image_features(inputs["pixel_values"])
        same = copy.copy(features)
        same.pooler_output = [rows.clone() for rows in features.pooler_output]
        other = copy.copy(features)
        other.pooler_output = [rows + 1e-3 for rows in same.pooler_output]
        with pytest.raises(tokenprune.UnsupportedCallError, match="not encoded by this model while it was"):
            model.model(**without_pixels(inputs), mm_encoder_outputs={"image": other})
        assert handle.last is None
        model.model(**without_pixels(inputs), mm_encoder_outputs={"image": same})  # equal rows, moved about
        assert handle.last.images[0].n_after == 5


def test_rows_are_the_same_by_their_bits_however_they_are_held():
    rows = [torch.ones(2, 3), torch.zeros(4, 3)]
    assert _equal(rows, tuple(row.clone() for row in rows)) and _equal(rows[0], rows[0])
    for other in (rows[:1], [rows[0], rows[1] + 1], [rows[0], rows[1][:2]], rows[0], None, "rows"):
        assert not _equal(rows, other)


def test_features_that_a_caller_encodes_for_himself_keep_no_text_from_its_answer(model):
    text, pixels = llava_inputs((6,)), llava_inputs((3, "I", 5))["pixel_values"]
    want, rows = model(**text).logits, model.model.get_image_features(pixels, return_dict=False)
    with tokenprune.apply(model, keep=5) as handle:
        for options in ({"return_dict": False}, {}):
            features = model.model.get_image_features(pixels, **options)
            assert torch.equal(model(**text).logits, want)  # a prompt without places for them
            assert handle.last is None
            if options:
                assert isinstance(features, tuple) and len(features) == len(rows)
            else:
                with pytest.raises(tokenprune.UnsupportedCallError, match="image features were encoded, but"):
                    model(**without_pixels(llava_inputs((3, "I", 5))))


# -- places for images


def test_places_that_are_no_multiple_of_what_was_encoded_are_refused():
    mask = torch.tensor([[True] * 6 + [False] * 2])
    for lengths in ([4], []):
        words = f"6 image tokens in the prompt, {sum(lengths)} encoded.*prefill_chunk_size=None"
        with pytest.raises(tokenprune.UnsupportedCallError, match=words):
            locate(mask, lengths, "image")


def test_an_image_in_two_rows_is_refused():
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 1:7] = mask[1, 1:3] = True
    words = r"\[6, 2\] image tokens .* images of \[4, 4\]"
    with pytest.raises(tokenprune.UnsupportedCallError, match=words):
        locate(mask, [4, 4], "image")
    spans = locate(mask, [6, 2], "image")
    assert [(span.row, span.number, span.slots.tolist()) for span in spans] == [
        (0, 0, [1, 2, 3, 4, 5, 6]),
        (1, 1, [1, 2]),
    ]


# -- masks


def test_the_language_model_alone_takes_no_mask_that_speaks_of_pairs(model):
    rows = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    language = model.model.language_model
    want = language(inputs_embeds=rows).last_hidden_state
    with tokenprune.apply(model, keep=5):
        with pytest.raises(tokenprune.UnsupportedCallError, match="this one is a tensor of 3 dimensions"):
            language(inputs_embeds=rows, attention_mask=torch.ones(1, 4, 4))
        assert torch.equal(language(inputs_embeds=rows).last_hidden_state, want)


def test_blocks_under_a_mask_of_an_unknown_kind_are_refused():
    model, inputs = tiny_families.build("gemma3"), tiny_families.inputs("gemma3", (3, "I", 5))

    def another_kind(module, args, kwargs):
        masks = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": {**masks, "chunked_attention": masks["full_attention"]}}

    hook = model.model.language_model.register_forward_pre_hook(another_kind, with_kwargs=True)
    words = "masks of the kind chunked_attention are not supported"
    with tokenprune.apply(model, method="divprune", keep=5, verify=False):
        with pytest.raises(tokenprune.UnsupportedCallError, match=words):
            model(**inputs)
        hook.remove()
        assert model(**inputs).logits.isfinite().all()


# -- caches


def test_a_second_turn_of_unequal_images_on_a_pruned_cache_without_any_mask(model):
    """Two rows of equal length; in the second turn one has two images, the other one."""
    first = llava_inputs((3, "I"), (3, "I"), seed=3)["pixel_values"]
    ids = [llava_inputs(row, row, seed=3)["input_ids"] for row in ((3, "I"), (2, "I", "I"), (18, "I"))]
    more = torch.stack([ids[1][0], ids[2][1]])
    pixels = llava_inputs(("I", "I", "I"), seed=4)["pixel_values"]
    with tokenprune.apply(model, method="stride", keep=5) as handle:
        kv = cache_of(model(input_ids=ids[0], pixel_values=first, use_cache=True))
        got = model(input_ids=more, pixel_values=pixels, **{CACHE: kv}).logits
        assert [image.n_after for image in handle.last.images] == [5, 5, 5]
        next_ids = torch.tensor([[7], [8]])
        later = model(input_ids=next_ids, **{CACHE: kv}).logits[:, 0]
    for row, images in ((0, [0, 1]), (1, [2])):
        whole = torch.cat([ids[0][row], more[row], next_ids[row]])[None]
        inputs = {
            "input_ids": whole,
            "attention_mask": torch.ones_like(whole),
            "pixel_values": torch.cat([first[row : row + 1], pixels[images]]),
        }
        ((embeds, places, _),) = llava_by_hand.rows_of(
            model, inputs, tokenprune.method("stride"), 5, "contiguous"
        )
        want = llava_by_hand.logits(model, embeds, places)
        torch.testing.assert_close(later[row], want[-1], **TOLERANCE)
        torch.testing.assert_close(got[row, -1], want[-2], **TOLERANCE)


# -- turns


def test_a_call_of_the_inner_model_that_waited_for_remove_is_answered_unpruned(model):
    """`remove` in the running call itself, while another thread waits for it to end."""
    inputs, want = llava_inputs((3, "I", 5)), model.model(**llava_inputs((3, "I", 5))).last_hidden_state
    handle, answers = tokenprune.apply(model, keep=5), []

    def call():
        with torch.no_grad():
            answers.append(model.model(**inputs).last_hidden_state)

    waits = threading.Thread(target=call, daemon=True)
    entered_by_it = threading.Event()

    def see(*_):
        if threading.current_thread() is waits:
            entered_by_it.set()

    def remove(*_):
        if threading.current_thread() is waits:
            return
        waits.start()
        assert entered_by_it.wait(20)
        handle.remove()

    hooks = [model.model.language_model.norm.register_forward_pre_hook(remove)]
    hooks.append(model.model.register_forward_pre_hook(see, prepend=True))
    try:
        model.model(**inputs)
        waits.join(20)
    finally:
        for hook in hooks:
            hook.remove()
    assert not waits.is_alive() and torch.equal(answers[0], want)
    assert torch.equal(model.model(**inputs).last_hidden_state, want)


def test_after_an_interrupted_call_the_language_model_alone_brings_no_images(model):
    inputs = llava_inputs((3, "I", 5))
    rows = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
    want = model.model.language_model(inputs_embeds=rows).last_hidden_state

    def stop(*_):
        raise KeyboardInterrupt

    with tokenprune.apply(model, keep=5) as handle:
        for interrupted in (model, model.model):
            hook = model.model.language_model.register_forward_pre_hook(stop)
            with pytest.raises(KeyboardInterrupt):
                interrupted(**inputs)
            hook.remove()
            got = model.model.language_model(inputs_embeds=rows).last_hidden_state
            assert torch.equal(got, want) and handle.last is None
            model(**inputs)
            assert handle.last.images[0].n_after == 5
            handle._record(None)


# -- export


@pytest.mark.parametrize("method", ["divprune", "pyramiddrop"])
def test_a_prompt_without_images_exports_whatever_is_kept(model, method):
    text = llava_inputs((6,))
    want = model(**text, use_cache=False).logits
    with tokenprune.apply(model, method=method, keep=3):
        program = torch.export.export(model, (), {**text, "use_cache": False}, strict=False)
    assert torch.equal(program.module()(**text, use_cache=False).logits, want)


# -- layers


class LooksElsewhere(tokenprune.Scorer):
    """Asks for what another layer than the one before the cut has."""

    name = "looks-elsewhere"

    def __init__(self, signal, layer):
        self.signal, self.layer = signal, layer

    @property
    def needs(self):
        return frozenset({self.signal})

    def score(self, tokens):
        asked = tokens.signal(self.signal)
        got = asked(self.layer, torch.tensor([-1])) if self.signal == "attention_rows" else asked(self.layer)
        return got.float().flatten(1).mean(1) if self.signal == "hidden" else got.float().mean((0, 1))


@pytest.mark.parametrize("signal", ["hidden", "attention_rows"])
def test_signals_of_another_layer_than_the_one_cut_before_are_refused(model, signal):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(model, scorer=LooksElsewhere(signal, 2), keep=5, layer=2) as handle:
        model(**inputs)
        assert handle.last.images[0].n_after == 5
    with tokenprune.apply(model, scorer=LooksElsewhere(signal, 3), keep=5, layer=2):
        with pytest.raises(tokenprune.IncompatibleError, match="of layer 3 .* before layer 2"):
            model(**inputs)


def test_layers_of_two_kinds_with_the_same_arguments_are_cut_as_those_of_one(model):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(model, method="fastv", keep=5):
        want = model(**inputs).logits
    layer = model.model.language_model.layers[2]
    layer.__class__ = type("Other", (type(layer),), {})
    with tokenprune.apply(model, method="fastv", keep=5):
        assert torch.equal(model(**inputs).logits, want)


def test_a_layer_without_a_norm_before_its_attention_is_refused_where_it_is_looked_at(model):
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    rows = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    layer = model.model.language_model.layers[1]
    assert torch.equal(adapter.norm_before_attention(1, rows), layer.input_layernorm(rows))
    del layer.input_layernorm
    with pytest.raises(tokenprune.IncompatibleError, match="LlamaDecoderLayer has no norm before its"):
        adapter.norm_before_attention(1, rows)
