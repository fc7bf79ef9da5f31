# SPDX-License-Identifier: Apache-2.0
"""`apply` and `remove` that are stopped half way, and `remove` while other threads are in a call."""

import threading

import pytest
import tiny_models
import torch
from tokenprune_adapters.transformers import engine, tap
from tokenprune_adapters.transformers.interposed import interpose

import tokenprune
import tokenprune.handle

ERRORS = (RuntimeError, KeyboardInterrupt, MemoryError)


def fails(error):
    def fail(*args, **kwargs):
        raise error("half way")

    return fail


def traces(model):
    return [
        (
            sorted(vars(module)),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            id(module.__dict__),
        )
        for module in model.modules()
    ]


@pytest.fixture
def model():
    return tiny_models.llava()


@pytest.fixture
def inputs():
    return tiny_models.llava_inputs((3, "I", 5))


@pytest.mark.parametrize("error", ERRORS)
def test_a_compiler_that_cannot_be_reset_leaves_the_model_unpruned(monkeypatch, model, inputs, error):
    wanted, before = model(**inputs).logits, traces(model)
    with monkeypatch.context() as patch:
        patch.setattr(tokenprune.handle, "forget_compiled", fails(error))
        with pytest.raises(error):
            tokenprune.apply(model, method="fastv", layer=2, keep=5)
    assert traces(model) == before and not tokenprune.is_pruned(model)
    assert torch.equal(model(**inputs).logits, wanted)


# what remove() calls, one after another
STEPS = [(tap, "_functions"), (engine.UndoStack, "run")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=lambda part: getattr(part, "__name__", part))
def test_a_removal_that_is_stopped_can_be_repeated(monkeypatch, model, inputs, owner, name, error):
    wanted, before = model(**inputs).logits, traces(model)
    handle = tokenprune.apply(model, method=["visionzip", "fastv"], keep=[9, 4])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails(error))
        with pytest.raises(error):
            handle.remove()
    assert handle.is_active and tokenprune.active_handle(model) is handle
    handle.remove()
    handle.remove()
    assert not handle.is_active and not tokenprune.is_pruned(model)
    assert traces(model) == before and torch.equal(model(**inputs).logits, wanted)


def test_an_interposed_function_is_taken_away_twice_without_harm():
    class Owner:
        def name(self):
            return "own"

    owner = Owner()
    undo = interpose(owner, "name", lambda: "ours")
    assert owner.name() == "ours"
    undo()
    undo()
    assert owner.name() == "own" and vars(owner) == {}


def test_a_function_that_a_caller_put_on_an_object_is_put_back():
    class Owner:
        def name(self):
            return "own"

    owner = Owner()
    owner.name = lambda: "caller's"
    undo = interpose(owner, "name", lambda: "ours")
    assert owner.name() == "ours"
    undo()
    assert owner.name() == "caller's"
    undo()
    assert owner.name() == "caller's"


def in_thread(call):
    """Start a call in a thread; return the thread and a list that gets its answer or its error."""
    said = []

    def work():
        try:
            said.append(call())
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, said


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_remove_waits_for_the_call_under_way_and_waiting_threads_go_on_unpruned(model, inputs, method):
    def forward():
        return model(**inputs).logits

    unpruned = forward()
    handle = tokenprune.apply(model, method=method, keep=4)
    pruned = forward()
    inside, go = threading.Event(), threading.Event()

    def pause(module, args):
        if not inside.is_set():
            inside.set()
            go.wait(20)

    hook = model.model.language_model.layers[3].register_forward_pre_hook(pause)
    first, said_first = in_thread(forward)
    assert inside.wait(20)
    second, said_second = in_thread(forward)
    removing, _ = in_thread(handle.remove)
    removing.join(0.2)
    assert removing.is_alive()  # it waits
    go.set()
    for thread in (first, second, removing):
        thread.join(20)
        assert not thread.is_alive()
    hook.remove()
    assert torch.equal(said_first[0], pruned)
    assert torch.equal(said_second[0], pruned) or torch.equal(said_second[0], unpruned)
    assert torch.equal(forward(), unpruned) and not tokenprune.is_pruned(model)


def test_a_generation_whose_model_is_unpruned_between_two_steps_raises(model, inputs):
    handle = tokenprune.apply(model, keep=4)
    steps = []

    def stop(module, args):
        steps.append(1)
        if len(steps) == 3:
            handle.remove()

    hook = model.register_forward_pre_hook(stop)
    with pytest.raises(tokenprune.StaleCacheError):
        model.generate(**inputs, max_new_tokens=6, do_sample=False)
    hook.remove()


def test_an_interposed_function_that_somebody_wrapped_calls_the_original_in_the_end():
    class Owner:
        def name(self):
            return "original"

    owner = Owner()
    undo = interpose(owner, "name", lambda: "ours")
    ours = owner.name
    owner.name = lambda: f"wrapped {ours()}"
    assert owner.name() == "wrapped ours"
    undo()
    assert owner.name() == "wrapped original"
