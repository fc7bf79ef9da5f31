# SPDX-License-Identifier: Apache-2.0
"""What a pruned model keeps alive between calls: nothing of them."""

import gc
import weakref

import pytest
import tiny_models
import torch

import tokenprune

METHODS = ("zoo-exact", "divprune", "hiprune", "vispruner", "visionzip")


def build(name):
    if name == "llava":
        return tiny_models.llava(), tiny_models.llava_inputs((3, "I", 5))
    model = tiny_models.llava_next()
    return model, tiny_models.llava_next_inputs(model, [(3, "I", 5)], [(32, 64)])


@pytest.mark.parametrize("how", ["generate", "forward"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_outputs_of_the_tower_are_let_go(name, method, how):
    model, inputs = build(name)
    outputs, pixels = [], weakref.ref(inputs["pixel_values"])
    hook = model.model.vision_tower.register_forward_hook(
        lambda module, args, output: outputs.append(weakref.ref(output))
    )
    with tokenprune.apply(model, method=method, keep=5), torch.no_grad():
        for _ in range(4):
            if how == "generate":
                model.generate(**inputs, max_new_tokens=1, do_sample=False)
            else:
                model(**inputs)
        del inputs
        gc.collect()
        assert len(outputs) == 4
        assert not any(output() is not None for output in outputs)
        assert pixels() is None
    hook.remove()


@pytest.mark.parametrize("method", METHODS)
def test_tensors_do_not_grow_with_the_number_of_calls(method):
    model, inputs = build("llava")

    def alive():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    with tokenprune.apply(model, method=method, keep=5), torch.no_grad():
        for _ in range(3):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        before = alive()
        for _ in range(20):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert alive() <= before


@pytest.mark.parametrize("method", ["zoo-exact", "visionzip"])
def test_outputs_that_are_kept_keep_nothing_of_the_tower(method):
    model, inputs = build("llava")
    inputs_of_projector, outputs = [], []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(
        lambda module, args: inputs_of_projector.append(weakref.ref(args[0]))
    )
    with tokenprune.apply(model, method=method, keep=5), torch.no_grad():
        for _ in range(3):
            outputs.append(model(**inputs))
        gc.collect()
        assert not any(rows() is not None for rows in inputs_of_projector)
    hook.remove()


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_the_last_hidden_state_is_the_one_that_the_logits_are_made_of(method):
    model, inputs = build("llava")
    model.requires_grad_()
    layer = 2 if method == "fastv" else None
    with tokenprune.apply(model, method=method, keep=5, layer=layer), torch.enable_grad():
        out = model(**inputs, output_hidden_states=True)
        out.hidden_states[-1].retain_grad()
        out.logits[0, -1].sum().backward()
    wanted = torch.zeros_like(out.hidden_states[-1])
    wanted[0, -1] = model.lm_head.weight.sum(0)
    torch.testing.assert_close(out.hidden_states[-1].grad, wanted)
