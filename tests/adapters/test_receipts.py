# SPDX-License-Identifier: Apache-2.0
"""What a pruned call was passed, stored and returned is compared with its plan; a difference raises."""

import pytest
import tiny_models
import torch
from cache_names import CACHE
from model_cases import Case
from tokenprune_adapters.transformers import receipts, stock
from tokenprune_adapters.transformers.call import Call
from tokenprune_adapters.transformers.plan import RowPlan
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

import tokenprune


@pytest.fixture
def llava():
    return tiny_models.llava()


@pytest.fixture
def inputs():
    return tiny_models.llava_inputs((3, "I", 5))


def test_a_layer_that_stores_other_rows_than_planned(monkeypatch, llava, inputs):
    original = DynamicLayer.update

    def forgets_one(self, keys, values, *args, **kwargs):
        return original(self, keys[:, :, 1:], values[:, :, 1:], *args, **kwargs)

    with tokenprune.apply(llava, method="divprune", keep=5):
        monkeypatch.setattr(DynamicLayer, "update", forgets_one)
        with pytest.raises(tokenprune.ReceiptError, match="layer 0 stores 13 tokens .* 14 were planned"):
            llava(**inputs, use_cache=True)


def test_an_output_with_other_rows_than_planned(llava, inputs):
    def drops_a_row(module, args, output):
        output.last_hidden_state = output.last_hidden_state[:, 1:]

    hook = llava.model.language_model.register_forward_hook(drops_a_row)
    with tokenprune.apply(llava, method="divprune", keep=5, verify=False):
        with pytest.raises(tokenprune.ReceiptError, match="output has 13 rows .* 14 were planned"):
            llava(**inputs)
    hook.remove()


def test_a_cache_that_does_not_come_back(llava, inputs):
    def keeps_it(module, args, output):
        output[CACHE] = None

    hook = llava.model.language_model.register_forward_hook(keeps_it)
    with tokenprune.apply(llava, method="divprune", keep=5, verify=False):
        with pytest.raises(tokenprune.ReceiptError, match="a call with a cache returned none"):
            llava.generate(**inputs, max_new_tokens=2)
        llava(**inputs, use_cache=False)  # nobody asked for one
    hook.remove()


def test_a_cache_that_is_passed_by_an_unknown_name(llava, inputs):
    with tokenprune.apply(llava, method="divprune", keep=5):
        language = llava.model.language_model
        with pytest.raises(tokenprune.ReceiptError, match="cache as the unknown argument memory"):
            language(inputs_embeds=torch.zeros(1, 2, 64), memory=DynamicCache(config=language.config))


def test_a_decoding_step_on_a_pruned_cache_that_was_not_read():
    call = Call(1, None)
    pruned = type("Layer", (receipts.PrunedLayer,), {})()
    kv = type("Cache", (), {"layers": [pruned]})()
    with pytest.raises(
        tokenprune.ReceiptError, match="pruned cache was used by a call that seemed to have no"
    ):
        receipts.check_returned(call, torch.nn.Identity(), kv)


def test_positions_of_another_length_than_the_rows():
    call = Call(3, entered=torch.zeros(1, 3, 4))
    receipts.check_positions(call, torch.arange(3)[None])
    with pytest.raises(tokenprune.ReceiptError, match="got 4 positions for 3 rows"):
        receipts.check_positions(call, torch.arange(4)[None])


def test_a_cut_call_that_never_rotates():
    call = Call(3, entered=torch.zeros(1, 2, 4))
    call.front = object()  # some cut
    with pytest.raises(tokenprune.ReceiptError, match="rotary embedding was not called"):
        receipts.check_returned(call, torch.nn.Identity(), None)


def test_rows_of_a_plan():
    plan = RowPlan.make(torch.tensor([[True, False, True]]))
    receipts.check_rows("a layer", torch.zeros(1, 2, 4), plan.index.shape[1])
    with pytest.raises(tokenprune.ReceiptError, match="a layer has 3 rows per sequence, 2 were planned"):
        receipts.check_rows("a layer", torch.zeros(1, 3, 4), plan.index.shape[1])


def test_an_unknown_argument_with_a_row_for_each_token_is_refused(llava, inputs):
    n = inputs["input_ids"].shape[1]
    with tokenprune.apply(llava, method="divprune", keep=5):
        with pytest.raises(tokenprune.UnsupportedCallError, match=f"passed hints, .* each of {n} tokens"):
            llava.model(**inputs, hints=torch.zeros(1, n, 3))
        llava.model(**inputs, hints=torch.zeros(7))  # of no token


def test_the_message_says_what_to_do(llava):
    with pytest.raises(tokenprune.ReceiptError) as raised:
        receipts.check_rows("a layer", torch.zeros(1, 3, 4), 2)
    message = str(raised.value)
    assert stock.installed_version() in message and "5.17 to 5.24 was tested" in message
    assert "Do not use its answer" in message and "install a tested version" in message


class CountsWaits(TorchDispatchMode):
    """Counts what makes a program wait for the device: values that Python asks for."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.n += any(
            part in name for part in ("_local_scalar_dense", "is_nonzero", "aten.equal", "aten.nonzero")
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen"])
@pytest.mark.parametrize("method", ["divprune", "fastv"])
def test_a_decoding_step_waits_for_the_device_no_more_than_without_pruning(name, method):
    case = Case(name)
    inputs = case.single()[0]

    def waits():
        output = case.model(**inputs, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
        with CountsWaits() as counted:
            case.model(input_ids=token, use_cache=True, **{CACHE: output[CACHE]})
        return counted.n

    stock_waits = waits()
    with tokenprune.apply(case.model, method=method, keep=5):
        assert waits() == stock_waits
