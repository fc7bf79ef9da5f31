# SPDX-License-Identifier: Apache-2.0
"""The thinkers of Qwen's Omni models: what to prune, sound beside pictures, and older versions."""

import pytest
import tiny_families as families
import torch
from family_cases import KEEP, TOLERANCE
from tiny_models import BOS, IMAGE
from torch import nn

import tokenprune

AUDIO = 94
N_SOUND = 4  # rows that the audio tower makes of 16 frames
pytestmark = pytest.mark.skipif("qwen2_5_omni" not in families.CLASSES, reason="from transformers 5.23 on")


def test_a_whole_model_is_referred_to_its_thinker():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.thinker = nn.Linear(2, 2)

    with pytest.raises(tokenprune.UnsupportedModelError, match="apply to model.thinker"):
        tokenprune.apply(Whole(), method="divprune", keep=KEEP)


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
def test_a_thinker_of_older_transformers_is_refused_with_the_version(monkeypatch, name):
    model = families.model(name)
    monkeypatch.delattr(type(model.model), "get_image_features")
    with pytest.raises(tokenprune.UnsupportedModelError, match="transformers 5.23 or newer"):
        tokenprune.apply(model, method="divprune", keep=KEEP)


def test_sound_beside_a_picture_is_left_alone():
    """Only visual tokens are dropped, and the rows of the sound before them are unchanged."""
    model = families.model("qwen2_5_omni")
    inputs = families.inputs("qwen2_5_omni", (3, "I", 5))
    sound = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    features = {"input_features": sound, "feature_attention_mask": torch.ones(1, 16).long()}
    ids = inputs["input_ids"][0].tolist()
    ids = [BOS, 96, *[AUDIO] * N_SOUND, 97, *ids[1:]]
    inputs |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long(), **features}
    before = model(**inputs).logits
    with tokenprune.apply(model, method="divprune", keep=KEEP) as handle:
        pruned = model(**inputs).logits
        (image,) = handle.last.images
    assert (image.n_before, image.n_after) == (24, KEEP)
    first = ids.index(IMAGE)
    torch.testing.assert_close(pruned[:, :first], before[:, :first], **TOLERANCE)
    assert (pruned[:, -1] - before[:, -1]).abs().max() > 0.01
