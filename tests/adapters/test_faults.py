# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a call, wherever: the next one is right, in every thread, and the pruning can be removed.

An error is raised at the start of each function of the engine and of the strategies that a call runs, by
Python's own profile function, which is called for each of them.
"""

import sys
import threading
from pathlib import Path

import pytest
import tiny_models
import tokenprune_adapters.transformers
import tokenprune_plugins
import torch

import tokenprune

PACKAGES = (tokenprune_adapters.transformers, tokenprune_plugins)
FOLDERS = tuple(str(Path(package.__file__).parent) for package in PACKAGES)
KINDS = [RuntimeError, KeyboardInterrupt, MemoryError]
METHODS = {
    "zoo-exact": {},
    "visionzip": {},
    "sparsevlm": {"layer": (1, 2, 3)},
    "pyramiddrop": {"layer": (1, 2)},
}
INPUTS = tiny_models.llava_inputs((3, "I", 5), (2, "I", 6))


def functions_of(call, folders=FOLDERS):
    """Code of ours that a call runs, each once."""
    codes = {}

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            codes[frame.f_code] = None

    with profiled(note):
        call()
    return list(codes)


class profiled:
    def __init__(self, function):
        self.function = function

    def __enter__(self):
        sys.setprofile(self.function)

    def __exit__(self, *what):
        sys.setprofile(None)


def ended_by(kind, code, call):
    """Raise an error where `code` is entered first; the call must end with it, or get along without."""

    def inject(frame, event, argument):
        if event == "call" and frame.f_code is code:
            sys.setprofile(None)
            raise kind("injected")

    try:
        with profiled(inject):
            call()
    except BaseException as error:
        chain = error
        while chain is not None and "injected" not in str(chain):
            chain = chain.__cause__ or chain.__context__
        assert chain is not None, error


def in_a_thread(call):
    result = []
    thread = threading.Thread(target=lambda: result.append(call()), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "a call of another thread waits for ever"
    return result[0]


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


CASES = [("sparsevlm", kind) for kind in KINDS]
CASES += [(method, KeyboardInterrupt) for method in METHODS if method != "sparsevlm"]


@pytest.mark.parametrize(("method", "kind"), CASES)
@torch.no_grad()
def test_a_call_that_ends_anywhere_leaves_the_next_one_right(method, kind):
    model, options = tiny_models.llava(), {"max_new_tokens": 2, "do_sample": False}
    before, hooks = model.generate(**INPUTS, **options), hooks_of(model)
    handle = tokenprune.apply(model, method=method, keep=5, **METHODS[method])

    def call():
        return model.generate(**INPUTS, **options)

    want = call()
    codes = functions_of(call)
    assert len(codes) > 60
    for number, code in enumerate(codes):
        ended_by(kind, code, call)
        again = call() if number % 2 else in_a_thread(call)
        assert torch.equal(again, want), code.co_name
    handle.remove()
    handle.remove()
    assert torch.equal(call(), before) and hooks_of(model) == hooks


OTHERS = sorted(set(tokenprune.list_methods()) - {"cdpruner"})  # which needs a head of CLIP's own
LAYERS = {"fastv": 2, "dart": 2, "pyramiddrop": (1, 2), "sparsevlm": (1, 2, 3), "sparsevlm-plus": (1, 2, 3)}


@pytest.mark.parametrize("method", OTHERS)
@torch.no_grad()
def test_a_strategy_that_ends_anywhere_leaves_the_next_call_right(method):
    model = tiny_models.llava()
    before = model(**INPUTS).logits
    handle = tokenprune.apply(model, method=method, keep=5, layer=LAYERS.get(method))

    def call():
        return model(**INPUTS).logits

    want = call()
    codes = functions_of(call, FOLDERS[1])
    assert codes
    for code in codes:
        for kind in KINDS:
            ended_by(kind, code, call)
            assert torch.equal(call(), want), code.co_name
        assert torch.equal(in_a_thread(call), want), code.co_name
    handle.remove()
    handle.remove()
    assert torch.equal(call(), before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("method", ["sparsevlm"])
@torch.no_grad()
def test_an_apply_or_remove_that_ends_anywhere_leaves_the_model_as_it_was_or_can_be_done_again(method, kind):
    model = tiny_models.llava()
    before, hooks = model(**INPUTS).logits, hooks_of(model)

    def prune():
        return tokenprune.apply(model, method=method, keep=5, **METHODS[method])

    def cycle():
        prune().remove()

    for code in functions_of(cycle):
        ended_by(kind, code, prune)
        handle = tokenprune.active_handle(model)
        if handle is None:
            assert not tokenprune.is_pruned(model) and hooks_of(model) == hooks, code.co_name
            continue
        ended_by(kind, code, handle.remove)
        handle.remove()
        handle.remove()
        assert hooks_of(model) == hooks, code.co_name
        assert torch.equal(in_a_thread(lambda: model(**INPUTS).logits), before), code.co_name
