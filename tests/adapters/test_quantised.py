# SPDX-License-Identifier: Apache-2.0
"""Quantised checkpoints: the cut works on any, and projectors are read or the reason is said."""

import copy
import importlib.util

import pytest
import tiny_models
import torch
from cache_names import cache_of
from model_cases import Case
from reference.kept_rows import kept_slots, stock_logits
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

import tokenprune
from tokenprune.at_hand import is_plain
from tokenprune.projector import in_float32
from tokenprune.weights import linear_weights

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 5


class IntLinear(nn.Module):
    """Weights as AWQ and GPTQ layers have them: whole numbers and a scale for each group of inputs."""

    group = 16

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        grouped = linear.weight.detach().view(linear.out_features, -1, self.group)
        scales = grouped.abs().amax(-1, keepdim=True) / 7
        self.register_buffer("qweight", (grouped / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def dequantised(self):
        return (self.qweight.float() * self.scales).flatten(1)

    def forward(self, rows):
        return nn.functional.linear(rows, self.dequantised().to(rows.dtype), self.bias)


class Fp8Linear(nn.Linear):
    """Weights as transformers' fine-grained FP8 layers have them: float8, and the inverse scale of blocks."""

    block = 16

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        rows, columns = linear.weight.shape
        blocks = linear.weight.detach().view(
            rows // self.block, self.block, columns // self.block, self.block
        )
        scale = blocks.abs().amax((1, 3)) / 448
        values = blocks / scale[:, None, :, None]
        self.weight = nn.Parameter(values.view(rows, columns).to(torch.float8_e4m3fn), requires_grad=False)
        self.weight_scale_inv = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def dequantised(self):
        scale = self.weight_scale_inv
        for axis in (0, 1):
            scale = scale.repeat_interleave(self.block, axis)
        return self.weight.float() * scale

    def forward(self, rows):
        return nn.functional.linear(rows, self.dequantised(), self.bias)


def replaced(module, make):
    """The module with all linear layers replaced, its own kind of linear layers included."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        else:
            replaced(child, make)
    return module


def dynamic_int8(module):
    """torch's own: int8 weights, and inputs made int8 call by call."""
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)


def torchao_int8():
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def bitsandbytes_4bit():
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


BY_HAND = {
    "torch-dynamic-int8": dynamic_int8,
    "grouped-int": lambda module: replaced(module, IntLinear),
    "blockwise-fp8": lambda module: replaced(module, Fp8Linear),
}
LOADED = {
    "torchao-int8": torchao_int8,
    "bitsandbytes-8bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "bitsandbytes-4bit": bitsandbytes_4bit,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions"),
]


def loaded(model, scheme, directory):
    """The model saved and loaded as a user would, quantised on the way by transformers' own code."""
    missing = [n for n in ("accelerate", "bitsandbytes", "torchao") if importlib.util.find_spec(n) is None]
    assert not missing, f"{', '.join(missing)} not installed: `make test` does, or the extra 'quantised'"
    model.save_pretrained(directory)
    return (
        type(model)
        .from_pretrained(directory, quantization_config=LOADED[scheme](), dtype=torch.float32)
        .eval()
    )


def wide_llava():
    """A tiny LLaVA all of whose widths are multiples of 64, the size of bitsandbytes' blocks."""
    narrow = tiny_models.llava()
    config, generation = narrow.config, narrow.generation_config
    config.vision_config.hidden_size, config.vision_config.intermediate_size = 64, 128
    config.text_config.intermediate_size = 128
    torch.manual_seed(0)
    model = type(narrow)(config).eval()
    model.generation_config = generation
    return model


@pytest.fixture(scope="module", params=[*BY_HAND, *LOADED])
def scheme(request):
    return request.param


@pytest.fixture(scope="module")
def original():
    return wide_llava()


@pytest.fixture(scope="module")
def model(scheme, original, tmp_path_factory):
    """A LLaVA with its projector and decoder quantised, and where it was loaded so, its tower."""
    if scheme in LOADED:
        return loaded(original, scheme, tmp_path_factory.mktemp(scheme))
    llava = copy.deepcopy(original)
    BY_HAND[scheme](llava.model.multi_modal_projector)
    BY_HAND[scheme](llava.model.language_model)
    return llava


def test_the_layers_are_quantised(model):
    inner = model.model
    for layer in (inner.multi_modal_projector.linear_1, inner.language_model.layers[0].self_attn.q_proj):
        assert not is_plain(layer)


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune", "divprune", "visionzip"])
def test_a_pruned_prefill_equals_stock_code_fed_the_kept_rows(model, method):
    inputs, seen = tiny_models.llava_inputs((3, "I", 5)), {}
    language = model.model.language_model
    before = model(**inputs).logits
    with tokenprune.apply(model, method=method, keep=KEEP) as handle:
        hook = language.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
        got = model(**inputs).logits[0]
        hook.remove()
        image = handle.last.images[0]
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert (image.n_before, image.n_after) == (16, KEEP)
    assert torch.equal(out[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    want = model(inputs_embeds=seen["inputs_embeds"]).logits[0]
    torch.testing.assert_close(got[-5:], want[-5:], **TOLERANCE)
    assert not torch.equal(model(inputs_embeds=seen["inputs_embeds"]).logits[0, -1], before[0, -1])
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
def test_decoder_cuts(model, method):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    before = model(**inputs).logits
    with tokenprune.apply(model, method=method, keep=KEEP) as handle:
        cache = cache_of(model(**inputs, use_cache=True))
        image = handle.last.images[0]
    assert [layer.keys.shape[2] for layer in cache.layers] == [9 + n for n in image.rows_entering(4)]
    assert image.n_after == KEEP
    with tokenprune.apply(model, method=method, keep=16):
        assert torch.equal(model(**inputs).logits, before)


def read(layer, original):
    """Weights of a quantised layer by its own account, or by that of the code that quantised it."""
    if hasattr(layer, "dequantised"):
        return layer.dequantised()
    if callable(layer.weight):
        return layer.weight().dequantize()
    if type(layer).__name__ == "Linear4bit":
        from bitsandbytes import functional

        return functional.dequantize_4bit(*functional.quantize_4bit(original.weight.data, quant_type="nf4"))
    if type(layer).__name__ == "Linear8bitLt":
        scale = original.weight.detach().abs().amax(1, keepdim=True) / 127
        return (original.weight.detach() / scale).round() * scale
    return layer.weight.dequantize().float()


def test_scores_are_those_of_the_weights_the_layers_stand_for(model, scheme, original):
    """The closed form, and the projector as a function in float32."""
    projector, rows = model.model.multi_modal_projector, torch.randn(7, 64)
    tolerance = {"atol": 1e-4, "rtol": 2e-3}
    if scheme.startswith("bitsandbytes"):
        tolerance = {"atol": 2e-2, "rtol": 2e-2}  # its kernels calculate in half precision
    plain = copy.copy(projector)
    plain._modules = {"act": projector.act}
    for name in ("linear_1", "linear_2"):
        layer = getattr(projector, name)
        weight, bias = linear_weights(layer)
        want = read(layer, getattr(original.model.multi_modal_projector, name))
        torch.testing.assert_close(weight, want, **tolerance)
        same = nn.Linear(*reversed(weight.shape))
        same.weight, same.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
        plain._modules[name] = same
    torch.testing.assert_close(in_float32(projector)(rows), plain(rows), atol=1e-5, rtol=1e-4)
    assert in_float32(projector)(rows).dtype == torch.float32


@pytest.mark.parametrize("scheme", ["torchao-int8", "bitsandbytes-8bit"])
@pytest.mark.parametrize("name", ["llava_next", "qwen"])
def test_the_other_two_models(name, scheme, tmp_path):
    """Loaded quantised, and pruned: the prefill equals stock code fed the kept rows."""
    case = Case(name)
    model, inputs = loaded(case.model, scheme, tmp_path), case.single()[0]
    with tokenprune.apply(model, method="zoo-exact", keep=KEEP) as handle:
        out = model.generate(
            **inputs, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert handle.last.n_after == KEEP < handle.last.n_before
    ids = inputs["input_ids"][0]
    assert torch.equal(out.sequences[0, : len(ids)], ids)
    want = stock_logits(model, inputs, kept_slots(ids, handle.last.images), ids[:0])[-1]
    torch.testing.assert_close(out.logits[0][0], want, **TOLERANCE)


class Crooked(nn.Module):
    """Not linear, whatever it says."""

    in_features, out_features = 32, 64

    def forward(self, rows):
        return rows.repeat(1, 2).square() + rows.repeat(1, 2)


class Locked(IntLinear):
    """Takes no rows we know of."""

    def forward(self, rows):
        raise RuntimeError("needs a GPU")


def test_a_projector_that_cannot_be_read_is_refused_with_the_remedy():
    assert linear_weights(Crooked()) is None
    for wrong in (Crooked(), Locked(nn.Linear(32, 64))):
        with pytest.raises(tokenprune.IncompatibleError, match="modules_to_not_convert"):
            in_float32(nn.Sequential(wrong))(torch.randn(2, 32))


def test_float8_weights_are_never_taken_without_their_scales():
    layer = Fp8Linear(nn.Linear(32, 64))
    weight, bias = linear_weights(layer)
    torch.testing.assert_close(weight, layer.dequantised(), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(weight, layer.weight.float())
    torch.testing.assert_close(bias, layer.bias.detach())
