# SPDX-License-Identifier: Apache-2.0
"""A training step, and the parts of an output that gradients or tuples reach."""

import torch
from checks import CLOSE, Checks, equal

import tokenprune


def step(model, inputs):
    """Loss of the last three tokens, and the gradient of every weight that has one."""
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    found = {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }
    return {"loss": loss.detach(), **found}


class GradientChecks(Checks):
    """Training goes through the kept tokens."""

    def test_training_step_is_the_stock_models(self):
        model, inputs = self.new_model().train(), self.batch(images=2)
        found = step(model, inputs)
        assert len(found) > 10
        if self.mode.identity:
            tokenprune.active_handle(model).remove()
            equal(found, step(model, inputs))

    def test_training_step_with_gradient_checkpointing(self):
        model, inputs = self.new_model().train(), self.batch(images=2)
        plain = step(model, inputs)
        for reentrant in (False, True):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
            again = step(model, inputs)
            assert set(plain) == set(again)
            for name in plain:
                torch.testing.assert_close(plain[name], again[name], **CLOSE, msg=name)

    def test_training_reaches_every_hidden_state(self):
        model, inputs = self.new_model(), self.batch()
        out = model(**inputs, output_hidden_states=True)
        for one in out.hidden_states:
            one.retain_grad()
        out.logits.sum().backward()
        assert all(one.grad is not None for one in out.hidden_states)

    def test_outputs_as_tuples(self):
        model, inputs = self.new_model(), self.batch()
        with torch.no_grad():
            named = model(**inputs, output_hidden_states=True)
            plain = model(**inputs, output_hidden_states=True, return_dict=False)
            inner = model.model(**inputs, return_dict=False)
        assert torch.equal(named.logits, plain[0])
        equal(named.hidden_states, plain[2])
        assert torch.equal(inner[0], named.hidden_states[-1])
