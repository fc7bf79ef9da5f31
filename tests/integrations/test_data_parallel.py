# SPDX-License-Identifier: Apache-2.0
"""nn.DataParallel: on one device it calls the model itself; copies for several devices are refused."""

import pytest
import tiny_models
import torch
from tiny_towers import TIMM, pictures

import tokenprune

INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))


def replica(module):
    """A copy for another device, as `torch.nn.parallel.replicate` makes it, but on this one."""
    copy = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        copy._modules[name] = child if child is None else replica(child)
    for name, weight in module._parameters.items():
        setattr(copy, name, weight)
    return copy


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@torch.no_grad()
def test_one_device(method):
    model = tiny_models.llava()
    parallel = torch.nn.DataParallel(model)
    with pytest.raises(
        tokenprune.UnsupportedModelError, match=r"DataParallel wraps a model; apply to model\.module"
    ):
        tokenprune.apply(parallel, method=method, keep=4)
    with tokenprune.apply(parallel.module, method=method, keep=4) as handle:
        want = model(**INPUTS).logits
        assert torch.equal(parallel(**INPUTS).logits, want)
        assert handle.last.images[0].n_after == 4


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@torch.no_grad()
def test_copies_for_several_devices_are_refused(method):
    model = tiny_models.llava()
    plain = model(**INPUTS).logits  # transformers sets hooks of its own at the first call
    assert torch.equal(replica(model)(**INPUTS).logits, plain)
    with tokenprune.apply(model, method=method, keep=4) as handle:
        want = model(**INPUTS).logits
        copy = replica(model)
        for call in (copy, copy.model):
            with pytest.raises(tokenprune.UnsupportedCallError, match="Use DistributedDataParallel with one"):
                call(**INPUTS)
        assert torch.equal(model(**INPUTS).logits, want)
        assert handle.last.images[0].n_after == 4


@torch.no_grad()
def test_copies_of_a_bare_tower_too():
    model, picture = TIMM["vit"](), pictures(1)
    with tokenprune.apply(model, method="divprune", keep=9, layer=2):
        want = model(picture)
        with pytest.raises(tokenprune.UnsupportedCallError, match="Use DistributedDataParallel with one"):
            replica(model)(picture)
        assert torch.equal(model(picture), want)
