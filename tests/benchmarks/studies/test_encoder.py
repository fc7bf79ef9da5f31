# SPDX-License-Identifier: Apache-2.0
"""Sensitivity of encoder layers against the same equation said again over the tower's own layers."""

import pytest
import tiny_models
import torch
from model_cases import Case

import tokenprune
from benchmarks.studies.encoder import EncoderScorer, EncoderWatch

STEP = 0.01


def scores_of(model, inputs, first, last):
    """What the scorer gave for each image of a call."""
    watch, found = EncoderWatch(model), []
    scorer = EncoderScorer(watch, first, last)

    class Noted(tokenprune.Scorer):
        name = "noted"
        needs = scorer.needs

        def score(self, tokens):
            found.append(scorer.score(tokens))
            return found[-1]

    def hooks():
        return [(list(layer._forward_pre_hooks), list(layer._forward_hooks)) for layer in watch.layers]

    with tokenprune.apply(model, scorer=Noted(), keep=3), torch.no_grad():
        with watch.listening():
            model(**inputs)
        before = hooks()  # transformers' own stay once they are there
        with watch.listening():
            model(**inputs)
        assert hooks() == before
    return found[len(found) // 2 :]


@torch.no_grad()
def by_hand(model, pixels, first, last):
    """(views, N): layers `first` ... `last` run on every nudged picture, one direction at a time."""
    tower = model.model.vision_tower
    entering = tower(pixels, output_hidden_states=True).hidden_states[first - 1]
    draw = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(64, entering.shape[-1], generator=draw), dim=-1)
    total = torch.zeros(entering.shape[0], entering.shape[1] - 1)
    for u in bank:
        ends = []
        for sign in (1, -1):
            rows = entering.clone()
            rows[:, 1:] += sign * STEP * u
            for layer in tower.encoder.layers[first - 1 : last]:
                rows = layer(rows, None)
            ends.append(rows[:, 1:])
        total += (ends[0] - ends[1]).norm(dim=-1) / (2 * STEP)
    return total / 64


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 2), (3, 3), (1, 2)])
def test_each_layer_and_the_whole_encoder(first, last):
    model = tiny_models.llava()  # three layers, the second one's rows are projected
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4, "I", 3))
    found = scores_of(model, inputs, first, last)
    expected = by_hand(model, inputs["pixel_values"], first, last)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4)


def test_tiles_are_recognised_whatever_the_packing():
    case = Case("llava_next")
    inputs = tiny_models.llava_next_inputs(case.model, [(3, "I", 5)], [(40, 64)])
    views = by_hand(case.model, inputs["pixel_values"][0], 2, 2)
    packed, _ = case.model.model.pack_image_features(
        [views.unsqueeze(-1)], inputs["image_sizes"], "default", image_newline=torch.tensor([-1.0])
    )
    rows = packed[0].flatten()
    (found,) = scores_of(case.model, inputs, 2, 2)  # without newlines
    torch.testing.assert_close(found, rows[rows >= 0], rtol=2e-3, atol=1e-4)


def test_equal_pictures_are_looked_at_once():
    model = tiny_models.llava()
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 4))
    inputs["pixel_values"][1] = inputs["pixel_values"][0]
    one, other = scores_of(model, inputs, 1, 1)
    assert torch.equal(one, other)


def test_the_layer_that_feeds_the_projector():
    model = tiny_models.llava()
    assert EncoderWatch(model).feature == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.config, "vision_feature_layer", 3)
        assert EncoderWatch(model).feature == 3


def test_models_without_such_layers_are_refused():
    with pytest.raises(tokenprune.IncompatibleError, match="layers of a vision encoder .* Qwen2_5_VL"):
        EncoderWatch(tiny_models.qwen())


def test_half_precision_is_refused():
    with pytest.raises(tokenprune.IncompatibleError, match="--dtype float32"):
        EncoderWatch(tiny_models.llava(dtype=torch.bfloat16))
