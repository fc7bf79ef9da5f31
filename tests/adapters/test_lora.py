# SPDX-License-Identifier: Apache-2.0
"""LoRA on the projector: scores are of the weights it stands for, and without dropout while it trains."""

import copy

import pytest
import tiny_families
import tiny_models
import torch
from model_cases import Case
from peft import LoraConfig, get_peft_model

import tokenprune

# peft asks for a property that transformers 5.24 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
SCORERS = ("zoo-exact", "zoo")
PROJECTOR = r".*(multi_modal_projector.*linear[^.]*|multi_modal_projector.mlp[^.]*|merger.mlp.[02])"


def with_lora(model, dropout=0.3, **options):
    """A copy of a model with LoRA of large weights on its projector."""
    torch.manual_seed(0)
    options = {"target_modules": PROJECTOR, "init_lora_weights": False, **options}
    return get_peft_model(copy.deepcopy(model), LoraConfig(r=4, lora_dropout=dropout, **options))


def by_score(scorer):
    """The tokens with the largest scores: `diverse` would also look at the rows, dropout in them."""
    return {"scorer": scorer, "selector": "topk", "keep": 5}


def scored(handle):
    image = handle.last.images[0]
    return image.kept.tolist(), image.scores


@pytest.mark.parametrize("scorer", SCORERS)
def test_training_scores_as_evaluation_does(llava_sdpa, scorer):
    model, inputs = with_lora(llava_sdpa), tiny_models.llava_inputs((3, "I", 5), (2, "I", 6))
    with tokenprune.apply(model.get_base_model(), **by_score(scorer)) as handle:
        model.eval()(**inputs)
        kept, scores = scored(handle)
        model.train()
        logits = [model(**inputs).logits for _ in range(2)]
        assert scored(handle)[0] == kept
        torch.testing.assert_close(scored(handle)[1], scores)
        assert all(part.training for part in model.modules())
    assert not torch.equal(*logits)  # the model's own dropout goes on


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_are_those_of_the_merged_weights(llava_sdpa, scorer):
    model, inputs = with_lora(llava_sdpa), tiny_models.llava_inputs((3, "I", 5))
    merged = copy.deepcopy(model).merge_and_unload().eval()
    with tokenprune.apply(merged, **by_score(scorer)) as handle:
        merged(**inputs)
        kept, scores = scored(handle)
    with tokenprune.apply(model.get_base_model().train(), **by_score(scorer)) as handle:
        model(**inputs)
        assert scored(handle)[0] == kept
        torch.testing.assert_close(scored(handle)[1], scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava_next", "qwen"])
def test_the_other_main_models(name):
    case = Case(name)
    model, inputs = with_lora(case.model), case.single()[0]
    with tokenprune.apply(model.get_base_model(), **by_score("zoo-exact")) as handle:
        model.eval()(**inputs)
        kept, scores = scored(handle)
        model.train()(**inputs)
        assert scored(handle)[0] == kept
        torch.testing.assert_close(scored(handle)[1], scores)


@pytest.mark.parametrize("name", ["internvl", "mistral3"])
def test_other_families(name):
    model, inputs = with_lora(tiny_families.model(name)), tiny_families.inputs(name, (3, "I", 5))
    with tokenprune.apply(model.get_base_model(), **by_score("zoo-exact")) as handle:
        model.eval()(**inputs)
        kept = scored(handle)[0]
        model.train()(**inputs)
        assert scored(handle)[0] == kept


@pytest.mark.parametrize("use_dora", [False, True])
def test_gradients_reach_the_adapter(llava_sdpa, use_dora):
    """The loss of a training step is that of evaluation where nothing is dropped out."""
    model, inputs = with_lora(llava_sdpa, 0.0, use_dora=use_dora), tiny_models.llava_inputs((3, "I", 5))
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    with tokenprune.apply(model.get_base_model(), method="zoo-exact", keep=5), torch.enable_grad():
        want = model.eval()(**inputs, labels=labels).loss
        loss = model.train()(**inputs, labels=labels).loss
        torch.testing.assert_close(loss, want)
        loss.backward()
    gradients = [weight.grad for name, weight in model.named_parameters() if "lora_A" in name]
    assert gradients and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_step_of_training_is_scored_by(llava_sdpa):
    """Weights changed by an optimiser between two calls are read again."""
    model, inputs = with_lora(llava_sdpa), tiny_models.llava_inputs((3, "I", 5))
    optimiser = torch.optim.SGD([w for n, w in model.named_parameters() if "lora_" in n], lr=0.5)
    with tokenprune.apply(model.get_base_model().train(), **by_score("zoo")) as handle:
        with torch.enable_grad():
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        before = scored(handle)[1]
        optimiser.step()
        model(**inputs)
        after = scored(handle)[1]
    assert not torch.allclose(before, after)
    merged = model.merge_and_unload().eval()
    with tokenprune.apply(merged, **by_score("zoo")) as handle:
        merged(**inputs)
        torch.testing.assert_close(scored(handle)[1], after, atol=1e-4, rtol=1e-3)


def test_dropout_beside_the_projector(llava_sdpa):
    """LoRA everywhere, as target_modules="all-linear" makes it, and an adapter that is switched off."""
    model = with_lora(llava_sdpa, 0.3, target_modules="all-linear")
    inputs = tiny_models.llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=5) as handle:
        llava_sdpa(**inputs)
        plain = scored(handle)[0]
    with tokenprune.apply(model.get_base_model(), keep=5) as handle:
        model.train()(**inputs)
        assert handle.last.n_after == 5
        with model.disable_adapter():
            model(**inputs)
        assert scored(handle)[0] == plain
