# SPDX-License-Identifier: Apache-2.0
"""Copying, pickling and saving a pruned model; casting and moving it."""

import copy
import io
import json
import pickle

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from tiny_towers import TIMM

import tokenprune

pytestmark = pytest.mark.usefixtures("no_gradients")

METHODS = ["zoo-exact", "visionzip", "divprune", "fastv"]
INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))


def call(model, handle):
    pixels = INPUTS["pixel_values"].to(model.dtype)
    logits = model(**{**INPUTS, "pixel_values": pixels}).logits
    return logits, [image.kept.tolist() for image in handle.last.images]


def pruned(model, method):
    with tokenprune.apply(model, method=method, keep=4) as handle:
        return call(model, handle)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("method", METHODS)
def test_copies_of_a_pruned_model_are_refused_and_those_of_a_restored_one_are_not(how, method):
    model = tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=4) as handle:
        for part in (model, model.model, model.model.language_model, handle):
            with pytest.raises(tokenprune.UnsupportedCallError, match=r"call remove\(\) on its handle first"):
                COPIES[how](part)
    COPIES[how](model)
    with tokenprune.apply(model, method=method, keep=4) as handle:
        model(**INPUTS)
        report = pickle.loads(pickle.dumps(handle.last))  # reports are plain data
        assert [image.kept.tolist() for image in report.images] == call(model, handle)[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_a_restored_model_is_whole(method):
    """Before its first call, at which transformers sets hooks of its own that cannot be pickled."""
    model = tiny_models.llava()
    tokenprune.apply(model, method=method, keep=4).remove()
    want = pruned(tiny_models.llava(), method)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)
    for twin in twins:
        assert not tokenprune.is_pruned(twin)
        assert torch.equal(twin(**INPUTS).logits, model(**INPUTS).logits)
        got = pruned(twin, method)
        assert torch.equal(got[0], want[0]) and got[1] == want[1]


@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_pruned_tower_are_refused(how):
    tower = TIMM["vit"]()
    with tokenprune.apply(tower, method="divprune", keep=9, layer=2):
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be copied or pickled"):
            COPIES[how](tower)
    COPIES[how](tower)


def test_a_shallow_copy_is_pruned_with_its_original():
    model = tiny_models.llava()
    with tokenprune.apply(model, method="divprune", keep=4) as handle:
        twin = copy.copy(model)
        assert tokenprune.active_handle(twin) is handle
        want = call(model, handle)
        got = call(twin, handle)
        assert torch.equal(got[0], want[0]) and got[1] == want[1]
    assert not tokenprune.is_pruned(twin)


@pytest.mark.parametrize("method", [*METHODS, ["divprune", "fastv"]], ids=str)
def test_save_pretrained_writes_what_the_unpruned_model_writes(method, tmp_path):
    model = tiny_models.llava()
    model.save_pretrained(tmp_path / "before")
    keep = [9, 4] if isinstance(method, list) else 4
    with tokenprune.apply(model, method=method, keep=keep) as handle:
        model(**INPUTS)
        keys = list(model.state_dict())
        model.save_pretrained(tmp_path / "pruned")
        torch.save(model.state_dict(), tmp_path / "state.pt")
        assert handle.is_active
    names = sorted(path.name for path in (tmp_path / "before").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "pruned").iterdir())
    for name in names:
        files = [tmp_path / folder / name for folder in ("before", "pruned")]
        if name.endswith(".safetensors"):
            first, second = map(load_file, files)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first)
        else:
            assert files[0].read_bytes() == files[1].read_bytes()
            assert "tokenprune" not in json.dumps(json.loads(files[1].read_text()))
    assert keys == list(tiny_models.llava(seed=1).state_dict())
    loaded = type(model).from_pretrained(tmp_path / "pruned").eval()
    fresh = tiny_models.llava(seed=1)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    for other in (loaded, fresh):
        assert not tokenprune.is_pruned(other)
        assert torch.equal(other(**INPUTS).logits, model(**INPUTS).logits)


def test_a_state_is_loaded_into_a_pruned_model():
    model, other = tiny_models.llava(), tiny_models.llava(seed=1)
    for method in METHODS:
        want = pruned(other, method)
        with tokenprune.apply(model, method=method, keep=4) as handle:
            model.load_state_dict(other.state_dict())
            got = call(model, handle)
            model.load_state_dict(tiny_models.llava().state_dict())
        assert torch.equal(got[0], want[0]) and got[1] == want[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_dtype_set_after_apply(method, dtype):
    want = pruned(tiny_models.llava().to(dtype), method)
    model = tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=4) as handle:
        call(model, handle)
        if dtype == torch.float16:
            model.half()
        else:
            model.to(dtype)
        got = call(model, handle)
        assert got[0].dtype == dtype
        assert torch.equal(got[0], want[0]) and got[1] == want[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_meta_device(method):
    """A pruned model on the meta device cannot run, as an unpruned one cannot; its weights may come back."""
    model = tiny_models.llava()
    with tokenprune.apply(model, method=method, keep=4) as handle:
        want, state = call(model, handle), copy.deepcopy(model.state_dict())
        model.to("meta")
        with pytest.raises(RuntimeError, match="meta"):
            model(**{name: value.to("meta") for name, value in INPUTS.items()})
        model.load_state_dict(state, assign=True)
        for name, buffer in tiny_models.llava().named_buffers():  # those that no state holds
            owner, _, last = name.rpartition(".")
            model.get_submodule(owner)._buffers[last] = buffer
        got = call(model, handle)
        assert torch.equal(got[0], want[0]) and got[1] == want[1]
