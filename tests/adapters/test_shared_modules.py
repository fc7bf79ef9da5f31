# SPDX-License-Identifier: Apache-2.0
"""Simultaneous `apply` on one model, and models that share modules with a pruned one."""

import copy
import threading

import pytest
import tiny_models
import torch
from model_cases import Case
from tiny_models import llava_inputs

import tokenprune

ONE = (3, "I", 5)


def at_once(*functions):
    """What each returned or raised, called at the same time."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(number):
        barrier.wait()
        try:
            results[number] = functions[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def hooks(model):
    return [
        (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]


def apply_to(model, method):
    return lambda: tokenprune.apply(model, method=method, keep=4, layer=2 if method == "fastv" else None)


@pytest.mark.parametrize(
    "methods", [("divprune", "divprune"), ("zoo-exact", "fastv"), ("fastv", "visionzip")]
)
def test_of_two_who_apply_at_once_one_prunes_and_the_other_is_refused(methods):
    model, inputs = tiny_models.llava(), llava_inputs(ONE)
    want, before = model(**inputs).logits, hooks(model)
    for _ in range(10):
        results = at_once(*(apply_to(model, method) for method in methods))
        handles = [one for one in results if isinstance(one, tokenprune.PruningHandle)]
        (refused,) = [one for one in results if isinstance(one, tokenprune.AlreadyPrunedError)]
        (handle,) = handles
        assert "this model is already pruned" in str(refused)
        assert tokenprune.active_handle(model) is handle
        model(**inputs)
        assert handle.last.images[0].n_after == 4
        handle.remove()
        assert hooks(model) == before and not tokenprune.is_pruned(model)
    assert torch.equal(model(**inputs).logits, want)


def test_so_it_is_for_copies_that_share_their_modules():
    model = tiny_models.llava()
    twin, before = copy.copy(model), hooks(model)
    for _ in range(5):
        results = at_once(apply_to(model, "divprune"), apply_to(twin, "divprune"))
        (handle,) = [one for one in results if isinstance(one, tokenprune.PruningHandle)]
        (refused,) = [one for one in results if isinstance(one, tokenprune.AlreadyPrunedError)]
        assert "shares modules with a model that is pruned" in str(refused)
        handle.remove()
        assert hooks(model) == before


def test_different_models_may_be_pruned_at_once():
    models = [tiny_models.llava(seed=seed) for seed in (0, 1, 2)]
    for handle in at_once(*(apply_to(model, "zoo-exact") for model in models)):
        assert handle.is_active
        handle.remove()


def test_a_lock_is_free_again_after_an_apply_that_failed_in_another_thread():
    model = tiny_models.llava()
    (error,) = at_once(lambda: tokenprune.apply(model, method="sparsevlm", layer=2, keep=4))
    assert isinstance(error, tokenprune.OptionError)
    (handle,) = at_once(apply_to(model, "divprune"))
    handle.remove()


@pytest.mark.parametrize("is_older", [True, False])
@pytest.mark.parametrize(
    ("family", "method"), [("llava", "divprune"), ("llava", "fastv"), ("qwen", "zoo-exact")]
)
def test_a_shallow_copy_is_pruned_with_its_original_and_says_so(family, method, is_older):
    case = Case(family)
    model, (inputs, _) = case.model, case.single()
    want, twin = model(**inputs).logits, copy.copy(model)
    with tokenprune.apply(model, method=method, keep=3) as handle:
        twin = twin if is_older else copy.copy(model)
        assert tokenprune.is_pruned(twin) and tokenprune.active_handle(twin) is handle
        with pytest.raises(tokenprune.AlreadyPrunedError, match=r"shares modules with a model .*copy\.copy"):
            tokenprune.apply(twin, method="random", keep=3)
        twin(**inputs)
        assert handle.last.images[0].n_after == 3
    assert not tokenprune.is_pruned(twin) and tokenprune.active_handle(twin) is None
    assert torch.equal(twin(**inputs).logits, want)
    with tokenprune.apply(twin, method=method, keep=3) as handle:
        assert tokenprune.is_pruned(model)
        model(**inputs)
        assert handle.last.images[0].n_after == 3
    assert torch.equal(model(**inputs).logits, want)


def test_models_that_share_no_hooked_module_have_nothing_to_do_with_each_other():
    model, other = tiny_models.llava(), tiny_models.llava(seed=1)
    other.lm_head = model.lm_head
    with tokenprune.apply(model, method="divprune", keep=4):
        assert not tokenprune.is_pruned(other)
        tokenprune.apply(other, method="divprune", keep=4).remove()
    deep = copy.deepcopy(model)
    with tokenprune.apply(model, method="divprune", keep=4):
        assert not tokenprune.is_pruned(deep)


def test_removing_twice_leaves_another_handle_alone():
    model = tiny_models.llava()
    first = tokenprune.apply(model, method="divprune", keep=4)
    undo = first._undo
    first.remove()
    with tokenprune.apply(model, method="divprune", keep=4) as second:
        first._undo = undo  # as in a thread that had begun to remove it too
        first.remove()
        assert tokenprune.active_handle(model) is second
