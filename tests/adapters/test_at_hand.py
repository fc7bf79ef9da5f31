# SPDX-License-Identifier: Apache-2.0
"""Weights a method reads that are elsewhere, before `apply` or after it: said where, and what to do."""

import accelerate
import pytest
import tiny_models
import torch
from model_cases import Case
from tiny_models import llava_inputs, qwen_inputs
from tiny_towers import TIMM, pictures
from torch.distributed.fsdp import fully_shard

import tokenprune
from tokenprune.at_hand import META, OFFLOADED, SHARDED, check_at_hand, why_not_at_hand

READERS = ["zoo-exact", "zoo-prune", "visionzip"]
ONE = (3, "I", 5)


def offload(model):
    accelerate.cpu_offload(model, execution_device="cpu")


def shard(model):
    fully_shard(model.model.multi_modal_projector)
    fully_shard(model)


def to_meta(model):
    model.model.multi_modal_projector.to("meta")


@pytest.fixture
def process_group(tmp_path):
    """One process that could be several."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (offload, "are offloaded; keep the projector on a device"),
        (
            shard,
            r"are sharded over several processes \(FSDP, ZeRO, tensor parallelism\); leave the projector",
        ),
        (to_meta, "are on the meta device and hold no numbers; load its weights onto a device"),
    ],
)
def test_weights_that_are_elsewhere_are_refused_by_apply(process_group, method, change, words):
    model = tiny_models.llava()
    change(model)
    with pytest.raises(tokenprune.IncompatibleError, match=f"'{method}' reads the .* weights, which {words}"):
        tokenprune.apply(model, method=method, keep=4)
    assert not tokenprune.is_pruned(model)


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize(("change", "where"), [(offload, OFFLOADED), (shard, SHARDED)])
def test_so_they_are_when_they_went_there_after_apply(process_group, method, change, where):
    model, inputs = tiny_models.llava(), llava_inputs(ONE)
    with tokenprune.apply(model, method=method, keep=4) as handle:
        model(**inputs)
        change(model)
        with pytest.raises(tokenprune.IncompatibleError) as caught:
            model(**inputs)
        assert f"this method reads the projector's weights, which {where};" in str(caught.value)
    assert not handle.is_active


@pytest.mark.parametrize("method", ["zoo-exact", "zoo-prune"])
def test_another_familys_projector_is_read_the_same_way(method):
    model, inputs = Case("qwen").model, qwen_inputs((3, ("I", 4, 4), 5))
    with tokenprune.apply(model, method=method, keep=3):
        want = model(**inputs).logits
        accelerate.cpu_offload(model, execution_device="cpu")
        try:
            with pytest.raises(tokenprune.IncompatibleError, match="weights, which are offloaded"):
                model(**inputs)
        finally:
            accelerate.hooks.remove_hook_from_submodules(model)
        assert torch.equal(model(**inputs).logits, want)  # they came back


@pytest.mark.parametrize("method", ["divprune", "fastv"])
@pytest.mark.parametrize("change", [offload, shard])
def test_methods_that_read_no_weights_go_on(process_group, method, change):
    model, inputs = tiny_models.llava(), llava_inputs(ONE)
    with torch.no_grad(), tokenprune.apply(model, method=method, keep=4) as handle:
        want = model(**inputs).logits
        change(model)
        torch.testing.assert_close(model(**inputs).logits, want)
        assert handle.last.images[0].n_after == 4


@pytest.mark.parametrize("method", READERS)
def test_weights_that_are_gathered_for_the_call_are_read(process_group, method):
    """The projector belongs to a larger unit, which FSDP gathers before its forward begins."""
    inputs, kept = llava_inputs(ONE), []
    for sharded in (False, True):
        model = tiny_models.llava()
        if sharded:
            fully_shard(model)
            assert why_not_at_hand(model.model.multi_modal_projector) == SHARDED
        with torch.no_grad(), tokenprune.apply(model, method=method, keep=4) as handle:
            kept.append((model(**inputs).logits, handle.last.images[0].kept))
    torch.testing.assert_close(*[logits for logits, _ in kept])
    assert torch.equal(*[slots for _, slots in kept])


def test_where_weights_are():
    layer = torch.nn.Linear(3, 2)
    assert why_not_at_hand(layer) == ""
    assert why_not_at_hand(torch.nn.Identity()) == ""
    assert why_not_at_hand(torch.nn.Linear(3, 2, device="meta")) == META
    layer.weight = torch.nn.Parameter(torch.empty(0))  # as DeepSpeed's ZeRO and FSDP's flat weights leave it
    assert why_not_at_hand(torch.nn.Sequential(layer)) == SHARDED
    with pytest.raises(tokenprune.IncompatibleError, match="this method reads .* are sharded"):
        tokenprune.Projector.wrap(torch.nn.Sequential(layer))(torch.zeros(1, 3))
    check_at_hand(layer, in_call=False)  # gathered for the call, perhaps
    with pytest.raises(tokenprune.IncompatibleError, match="meta device"):
        tokenprune.projector.linear_weights(torch.nn.Linear(3, 2, device="meta"))


@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_a_towers_head_is_read_by_who_needs_it_only(process_group, method):
    model, x = TIMM["vit"](), pictures(1)
    model.reset_classifier(7)
    model.eval()
    with torch.no_grad(), tokenprune.apply(model, method=method, keep=9, layer=2) as handle:
        model(x)
        for layer in (model.head, model.norm):
            fully_shard(layer)
        if method == "divprune":
            model(x)
            assert handle.last.images[0].n_after == 9
            return
        with pytest.raises(tokenprune.IncompatibleError, match="which are sharded over several processes"):
            model(x)
    with pytest.raises(tokenprune.IncompatibleError, match="'zoo-exact' reads .* sharded over several"):
        tokenprune.apply(model, method=method, keep=9, layer=2)
