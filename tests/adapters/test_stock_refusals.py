# SPDX-License-Identifier: Apache-2.0
"""Names of transformers that are read after `apply`, gone: each is refused by name; and what layers hold."""

from types import SimpleNamespace

import pytest
import tiny_models
import torch
from tokenprune_adapters.transformers import stock
from tokenprune_adapters.transformers.signature import Signature
from transformers import DynamicLayer

import tokenprune

INSTALLED = "tokenprune reads it, and was tested with transformers"


def missing(words):
    return pytest.raises(tokenprune.UnsupportedModelError, match=f"{words}; {INSTALLED}")


@pytest.mark.parametrize("word", stock.OUTPUTS)
def test_an_output_without_a_field_is_refused_by_every_spelling(word):
    names = stock.OUTPUTS[word]
    with missing(f"SimpleNamespace has no field {' or '.join(names)}"):
        stock.output_field(SimpleNamespace(other=1), word)
    with missing(f"SimpleNamespace has no field {' or '.join(names)}"):
        stock.set_output_field(SimpleNamespace(other=1), word, 2)
    for name in names:
        output = SimpleNamespace(**{name: 1})
        stock.set_output_field(output, word, 2)
        assert stock.output_field(output, word) == 2 == getattr(output, name)


def test_a_setting_that_the_configuration_does_not_have_is_refused():
    assert stock.config_value(SimpleNamespace(use_cache=False), "caching") is False
    with missing("SimpleNamespace has no use_cache"):
        stock.config_value(SimpleNamespace(), "caching")


@pytest.mark.parametrize("part", [SimpleNamespace(), SimpleNamespace(get_output_embeddings=lambda: None)])
def test_a_model_without_a_head_is_refused(part):
    with missing("SimpleNamespace has no method get_output_embeddings"):
        stock.head_of(part)


def test_a_model_that_takes_no_cache_is_refused_before_it_generates():
    class Model:
        generation_config = SimpleNamespace(pad_token_id=None)

        def forward(self, input_ids):
            raise AssertionError("never called")

    with missing("Model.forward has no argument cache or past_key_values"):
        stock.generate_these(Model(), {"input_ids": torch.ones(1, 2).long()}, [3], None)


def test_an_argument_that_may_lack_has_no_name_unless_the_function_takes_any():
    def plain(input_ids):
        pass

    def takes_any(input_ids, **more):
        pass

    words = {"words": ("ids",), "optional": ("sizes",)}
    assert Signature.of(plain, "plain", **words).names == {"ids": "input_ids"}
    names = {"ids": "input_ids", "sizes": "image_sizes"}
    assert Signature.of(takes_any, "takes_any", **words).names == names


# -- packing


@pytest.mark.parametrize(
    ("attention", "caching", "kv", "packs"),
    [
        ("flash_attention_2", True, object(), True),  # reads positions in any case
        ("sdpa", False, None, True),
        ("sdpa", True, None, False),
        ("sdpa", False, object(), False),
        ("sdpa", None, None, False),  # the configuration says that it caches
    ],
)
def test_whether_positions_that_start_again_begin_another_sequence(attention, caching, kv, packs):
    config = SimpleNamespace(_attn_implementation=attention, use_cache=True)
    language = SimpleNamespace(config=config, gradient_checkpointing=False, training=False)
    assert stock.packs(language, kv, caching) is packs


# -- caches


class Sliding(DynamicLayer):
    """A layer that slides: 4 stored tokens of 2 heads of width 3, keys and values of 4 bytes a number."""

    is_sliding, sliding_window, record_past = True, 5, False

    def __init__(self, **more):
        self.keys = self.values = torch.zeros(1, 2, 4, 3)
        vars(self).update(more)


@pytest.mark.parametrize(
    ("layer", "n_tokens", "n_held"),
    [
        (Sliding(), 9, 4),  # the window without the token that looks through it
        (Sliding(), 3, 3),
        (Sliding(record_past=True), 9, 9),
        (Sliding(max_cache_len=6), 9, 6),  # preallocated
        (Sliding(is_sliding=False), 9, 9),
    ],
)
def test_tokens_that_a_sliding_layer_holds(layer, n_tokens, n_held):
    assert stock.slots_held(layer, n_tokens) == n_held
    assert stock.bytes_held(layer, n_tokens, 4) == 2 * n_held * 2 * 3 * 4


class InParts(torch.Tensor):
    """A tensor made of others, as quantisers have them: whole numbers and their scales."""

    @staticmethod
    def __new__(cls, numbers, scales):
        made = torch.Tensor._make_subclass(cls, torch.empty(numbers.shape))
        made.numbers, made.scales = numbers, scales
        return made

    def __tensor_flatten__(self):
        return ["numbers", "scales"], None


def test_bytes_of_what_quantised_layers_store_are_those_of_its_parts():
    parts = InParts(torch.zeros(6, 5, dtype=torch.int8), torch.zeros(6, dtype=torch.float16))
    layer = SimpleNamespace(
        keys=None,
        values=torch.zeros(0),
        stored={"keys": parts, "values": [parts, None, "no tensor"]},
        which=torch.ones(6, dtype=torch.bool),  # says which tokens, not what is kept of them
        n=torch.tensor(6),
        scale=torch.tensor(2.0),
    )
    assert stock.bytes_held(layer, 6, 6) == 2 * (6 * 5 + 6 * 2)
    assert stock.bytes_held(layer, 3, 6) == 30 + 12


# -- layers that are recomputed


class Reruns(torch.nn.Linear):
    """As checkpointed layers were before transformers 5.23: called through a method of their own."""

    gradient_checkpointing = True

    def __call__(self, *args, **kwargs):
        return torch.nn.Module.__call__(self, *args, **kwargs)


@pytest.mark.parametrize(
    ("checkpointed", "training", "reruns"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_layers_whose_hooks_run_again_are_told_by_their_own_call(checkpointed, training, reruns):
    layer = Reruns(2, 2).train(training)
    layer.gradient_checkpointing = checkpointed
    assert stock.recomputes_hooks(layer) is reruns
    assert not stock.recomputes_hooks(torch.nn.Linear(2, 2).train())


def test_cuts_among_layers_whose_hooks_run_again_are_refused_under_gradients_only():
    model, inputs = tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))
    layers = model.model.language_model.layers
    for layer in layers:
        layer.__class__ = type("Reruns", (type(layer),), {"__call__": Reruns.__call__})
    words = "calls the hooks of a layer again when it recomputes it, where no rows can be dropped"

    def checkpoint(on):
        for layer in layers:
            layer.gradient_checkpointing = layer.training = on

    with tokenprune.apply(model, method="fastv", keep=5) as handle:
        want = model(**inputs).logits
        assert handle.last.images[0].n_after == 5
        checkpoint(True)
        with torch.enable_grad(), pytest.raises(tokenprune.UnsupportedCallError, match=words):
            model(**inputs)
        checkpoint(False)
        with torch.enable_grad():
            torch.testing.assert_close(model(**inputs).logits, want)
