# SPDX-License-Identifier: Apache-2.0
"""The promises in bfloat16 and float16, on tiny models: on a GPU, and their twins on the CPU.

`benchmarks/gpu/run.sh` runs those marked `gpu`. Flash attention is the package where it is installed, else
the flash backend of PyTorch's own attention, which on a GPU takes no mask: rows without padding.
"""

import copy
import functools
from contextlib import contextmanager
from dataclasses import dataclass

import model_cases
import pytest
import tiny_models
import torch
from cache_names import cache_of
from reference.kept_rows import kept_slots
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import is_flash_attn_2_available

import tokenprune


@dataclass(frozen=True)
class Place:
    """A device, the attention its models use, and the context they are called in."""

    device: str
    attention: str = "sdpa"
    is_backend: bool = False

    @contextmanager
    def called(self):
        """What calls are made in; the flash backend takes no mask, which on a CPU is ours to say."""
        if not self.is_backend:
            yield
            return

        def attend(query, key, value, attn_mask=None, *args, **kwargs):
            assert attn_mask is None, "the flash backend takes no mask"
            return attention(query, key, value, attn_mask, *args, **kwargs)

        attention = torch.nn.functional.scaled_dot_product_attention
        with pytest.MonkeyPatch.context() as patch, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
            yield

    @property
    def what(self) -> str:
        return "SDPA's flash backend" if self.is_backend else self.attention


CPU = Place("cpu", is_backend=True)
if is_flash_attn_2_available():
    FLASH = Place("cuda", "flash_attention_2")
else:
    FLASH = Place("cuda", is_backend=True)
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]
PLACES = [
    pytest.param(CPU, id="cpu"),
    pytest.param(Place("cuda"), id="cuda-sdpa", marks=GPU),
    pytest.param(FLASH, id="cuda-flash", marks=GPU),
]
DTYPES = [pytest.param(torch.bfloat16, id="bfloat16"), pytest.param(torch.float16, id="float16")]
METHODS = ["zoo-exact", "divprune", "fastv"]
KEEP, N_NEW = 7, 3
ROUNDINGS = 12  # of the largest logit, that two ways to it may lie apart; 2.4 on the CPU

pytestmark = [
    pytest.mark.parametrize("place", PLACES),
    pytest.mark.parametrize("dtype", DTYPES),
    pytest.mark.parametrize("name", model_cases.MODELS),
]


@pytest.fixture(autouse=True)
def _recorded(place, record_property):
    record_property("attention", place.what)


@functools.cache
def model_at(name, place, dtype):
    """A tiny model of which nothing but its weights is rounded."""
    model = copy.deepcopy(model_cases.model(name, "sdpa")).to(place.device, dtype)
    model.set_attn_implementation(place.attention)
    return model


def moved(inputs, device, dtype):
    return {
        name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
    }


def single(name, place, dtype):
    """One row with one image, without padding."""
    return moved(model_cases.Case(name).single()[0], place.device, dtype)


def generated(model, inputs):
    out = model.generate(
        **inputs,
        max_new_tokens=N_NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        suppress_tokens=[tiny_models.IMAGE, tiny_models.VIDEO, 92, 93, tiny_models.EOS],
    )
    return out.sequences, torch.stack(out.logits, 1)


def check_close(one, other, dtype):
    """Two ways to the same logits differ by rounding alone."""
    apart = float((one.float() - other.float()).abs().max())
    allowed = ROUNDINGS * torch.finfo(dtype).eps * float(other.float().abs().max())
    assert apart <= allowed, f"{apart:.3g} apart, {allowed:.3g} allowed"


@pytest.mark.parametrize("method", METHODS)
def test_identity_keeping_everything_and_removal(name, dtype, place, method):
    model, inputs = model_at(name, place, dtype), single(name, place, dtype)

    def everything():
        with place.called():
            return [model(**inputs).logits, *generated(model, inputs)]

    before = everything()
    with tokenprune.apply(model, method=method, keep=1000):
        during = everything()
    with tokenprune.apply(model, method=method, keep=KEEP):
        assert not torch.equal(everything()[0], before[0])
    after = everything()
    for other in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_exactness_as_a_full_run_that_hides_the_dropped(name, dtype, place, method):
    model, inputs = model_at(name, place, dtype), single(name, place, dtype)
    with tokenprune.apply(model, method=method, keep=KEEP, positions="original") as handle, place.called():
        got = model(**inputs).logits[0, -1]
        image = handle.last.images[0]
    ids = inputs["input_ids"][0].cpu()
    dropped = (~kept_slots(ids, [image])).nonzero().squeeze(1)
    assert len(dropped) == image.n_before - KEEP
    mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    mask[:, dropped] = False
    mask[dropped, dropped] = True
    given = {"attention_mask": mask[None, None].to(place.device)}
    plain = model_at(name, Place(place.device), dtype)
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, kwargs: (args, kwargs | given), with_kwargs=True)
        for layer in plain.model.language_model.layers[next(iter(image.cuts)) :]
    ]
    try:
        want = plain(**inputs).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    check_close(got, want, dtype)


def test_text_is_never_pruned_and_a_padded_batch_equals_its_rows(name, dtype, place):
    """With a method that looks at nothing: what is kept is no matter of rounding."""
    if place.is_backend and place.device != "cpu":
        pytest.skip("the flash backend takes no mask")
    model, case = model_at(name, place, dtype), model_cases.Case(name)
    batch, rows = case.batch()
    with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
        sequences, logits = generated(model, moved(batch, place.device, dtype))
        assert torch.equal(sequences[:, : batch["input_ids"].shape[1]].cpu(), batch["input_ids"])
        images = handle.last.images
        for row in range(len(rows)):
            alone = moved(case.alone((batch, rows), row)[0], place.device, dtype)
            ids, own = alone["input_ids"][0].cpu(), [image for image in images if image.row == row]
            n_text = int(((ids != tiny_models.IMAGE) & (ids != tiny_models.VIDEO)).sum())
            assert all(image.n_after >= 1 for image in own)
            assert int(kept_slots(ids, own).sum()) == n_text + sum(image.n_after for image in own)
            check_close(logits[row, 0], model(**alone).logits[0, -1], dtype)


@pytest.mark.parametrize("method", METHODS)
def test_the_saving_is_real_and_without_padding_no_mask_is_built(name, dtype, place, method):
    """A mask would take the flash backend away."""
    model, inputs, masks = model_at(name, place, dtype), single(name, place, dtype), []
    layers = model.model.language_model.layers
    with tokenprune.apply(model, method=method, keep=KEEP) as handle, place.called():
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
            )
            for layer in layers
        ]
        try:
            cache = cache_of(model(**inputs, use_cache=True))
        finally:
            for hook in hooks:
                hook.remove()
        report = handle.last
    assert masks == [None] * len(layers)
    n_text = inputs["input_ids"].shape[1] - report.n_before
    entering = report.images[0].rows_entering(len(layers))
    assert [layer.keys.shape[2] for layer in cache.layers] == [n_text + rows for rows in entering]
    assert entering[-1] == KEEP
    assert report.kv_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert report.kv_bytes < report.kv_bytes_unpruned


@pytest.mark.parametrize("method", [*METHODS, "zoo-prune"])
def test_determinism_two_handles_give_the_same_bits(name, dtype, place, method):
    model, inputs, found = model_at(name, place, dtype), single(name, place, dtype), []
    for _ in range(2):
        with tokenprune.apply(model, method=method, keep=KEEP) as handle, place.called():
            found.append((model(**inputs).logits, handle.last.images[0].kept))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune"])
def test_precision_scores_rank_as_in_float32(name, dtype, place, method):
    """As those of the same rounded weights in float32: the tower's own rounding is what is left."""
    model, inputs = model_at(name, place, dtype), single(name, place, dtype)
    rounded = copy.deepcopy(model).to("cpu", torch.float32)
    rounded.set_attn_implementation("sdpa")
    found = []
    for one, given in ((model, inputs), (rounded, moved(inputs, "cpu", torch.float32))):
        with tokenprune.apply(one, method=method, keep=KEEP) as handle:
            one(**given)
            found.append(handle.last.images[0].scores.cpu())
    assert found[0].dtype == torch.float32
    ranks = torch.stack(found).argsort(1).argsort(1).float()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.9
