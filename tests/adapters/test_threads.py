# SPDX-License-Identifier: Apache-2.0
"""Threads that call one pruned model: each gets its own answer, whoever is interrupted or compiled."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_families
import tiny_models
import torch
from model_cases import Case
from tiny_models import llava_inputs

import tokenprune

PATIENCE = 20  # seconds until a thread is taken to hang
MANY = [llava_inputs((3, "I", 5), seed=seed) for seed in range(3)]


@pytest.fixture
def model():
    """A model of the test's own."""
    return tiny_models.llava()


def in_thread(call):
    """What a call in another thread gives or raises."""
    said = []

    def work():
        try:
            with torch.no_grad():
                said.append(call())
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits for a turn that nobody gives back"
    return said[0]


def all_at_once(call, inputs, times=6):
    """What several threads are given for the same inputs, again and again."""

    def work(k):
        with torch.no_grad():
            return call(inputs[k % len(inputs)])

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(work, range(times * len(inputs))))


def check_threads(call, inputs, times=6):
    want = [call(one) for one in inputs]
    for k, got in enumerate(all_at_once(call, inputs, times)):
        torch.testing.assert_close(got, want[k % len(inputs)], atol=1e-4, rtol=1e-4)


def interrupted(module):
    """A hook that raises KeyboardInterrupt once, as the user might at any moment."""

    def stop(*_):
        hook.remove()
        raise KeyboardInterrupt

    hook = module.register_forward_pre_hook(stop)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv", "pyramiddrop"])
@pytest.mark.parametrize("part", ["language_model", "language_model.layers.3", "vision_tower"])
def test_an_interrupted_call_does_not_keep_its_turn(model, method, part):
    with tokenprune.apply(model, method=method, keep=5):
        want = model(**MANY[0]).logits
        interrupted(model.model.get_submodule(part))
        with pytest.raises(KeyboardInterrupt):
            model(**MANY[0])
        torch.testing.assert_close(in_thread(lambda: model(**MANY[0]).logits), want)
        torch.testing.assert_close(model(**MANY[0]).logits, want)
    assert not tokenprune.is_pruned(model)


def test_an_interrupted_generation_in_another_thread(model):
    options = {"max_new_tokens": 4, "do_sample": False}
    with tokenprune.apply(model, keep=5):
        want = model.generate(**MANY[0], **options)
        interrupted(model.model.language_model.layers[2])
        assert isinstance(in_thread(lambda: model.generate(**MANY[0], **options)), KeyboardInterrupt)
        assert torch.equal(model.generate(**MANY[0], **options), want)
        assert torch.equal(in_thread(lambda: model.generate(**MANY[0], **options)), want)


def test_remove_after_an_interrupted_call(model):
    want = model(**MANY[0]).logits
    handle = tokenprune.apply(model, method="fastv", keep=5)
    interrupted(model.model.language_model.layers[3])
    assert isinstance(in_thread(lambda: model(**MANY[0])), KeyboardInterrupt)
    assert in_thread(handle.remove) is None
    assert torch.equal(model(**MANY[0]).logits, want)


def test_what_an_interrupted_call_brought_is_forgotten(model):
    """Its labels and pixels are not those of the next call, which has neither."""
    text = llava_inputs((6,))
    want = model(**text).logits
    with tokenprune.apply(model, method="fastv", keep=5) as handle:
        model(**MANY[0])
        kept = handle.last.images[0].kept.tolist()
        interrupted(model.model.language_model)
        with pytest.raises(KeyboardInterrupt):
            model(**MANY[0], labels=MANY[0]["input_ids"])
        assert torch.equal(in_thread(lambda: model(**text).logits), want)
        model.model(**MANY[0])
        assert handle.last.images[0].kept.tolist() == kept


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_the_inner_model_called_directly(model, method):
    with tokenprune.apply(model, method=method, keep=5):
        check_threads(lambda inputs: model.model(**inputs).last_hidden_state, MANY)
        want = model(**MANY[0]).logits

        def mixed(inputs):
            if inputs is MANY[0]:
                return model(**inputs).logits
            return model.lm_head(model.model(**inputs).last_hidden_state)

        check_threads(mixed, MANY)
        torch.testing.assert_close(model(**MANY[0]).logits, want)


@pytest.mark.parametrize("name", ["internvl", "gemma3"])
def test_other_families(name):
    model = tiny_families.model(name)
    many = [tiny_families.inputs(name, (3, "I", 5), seed=seed) for seed in range(3)]
    with tokenprune.apply(model, method="divprune", keep=5):
        check_threads(lambda inputs: model(**inputs).logits, many, times=4)


def test_qwen():
    """Each call here begins a prompt: its positions are kept on the model, in stock code too."""
    case = Case("qwen")
    many = [case.inputs((3, ("I", 4, 6), 5), seed=seed)[0] for seed in range(3)]
    with tokenprune.apply(case.model, method="fastv", keep=5):
        check_threads(lambda inputs: case.model(**inputs).logits, many, times=4)


def test_a_compiled_forward_takes_turns_as_well(model, dynamo):
    with tokenprune.apply(model, method="zoo-exact", keep=5):
        want = [model(**inputs).logits for inputs in MANY]
        model.forward = torch.compile(model.forward, backend="eager")
        for inputs in MANY:
            model(**inputs)  # compiled by one thread
        for k, got in enumerate(all_at_once(lambda inputs: model(**inputs).logits, MANY)):
            torch.testing.assert_close(got, want[k % 3], atol=1e-4, rtol=1e-4)


def test_an_interrupted_compiled_call(model, dynamo):
    with tokenprune.apply(model, keep=5):
        want = model(**MANY[0]).logits
        model.forward = torch.compile(model.forward, backend="eager")
        torch.testing.assert_close(model(**MANY[0]).logits, want, atol=1e-4, rtol=1e-4)
        interrupted(model.model.language_model)
        with pytest.raises(KeyboardInterrupt):
            model(**MANY[0])
        torch.testing.assert_close(in_thread(lambda: model(**MANY[0]).logits), want, atol=1e-4, rtol=1e-4)


def test_one_graph_is_refused_with_the_remedy(model, dynamo):
    with tokenprune.apply(model, keep=5):
        call = torch.compile(model, backend="eager", fullgraph=True)
        words = r"use torch.compile\(..., fullgraph=False\), or remove\(\) the pruning"
        with pytest.raises(Exception, match=words):
            call(**MANY[0])
