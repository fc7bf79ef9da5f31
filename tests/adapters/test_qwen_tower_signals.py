# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5-VL's tower signals against the attention maps its own eager code makes."""

import pytest
import torch
from model_cases import Case
from reference.received import tokens_in_windows
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock

import tokenprune


class Looker(tokenprune.Scorer):
    """Keeps what it saw."""

    name = "looker"
    needs = frozenset({"received_attention", "key_metric", "pre_features"})

    def __init__(self):
        self.seen = []

    def score(self, tokens):
        self.seen.append({name: tokens.signal(name) for name in self.needs})
        return tokens.signal("received_attention")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("picture", [("I", 4, 6), ("I", 3, 5), ("V", 3, 2, 4)])
def test_attention_received_and_keys(monkeypatch, attention, picture):
    case, looker, maps, keys = Case("qwen", attention), Looker(), [], []
    tower = case.model.model.visual
    last, eager = tower.blocks[-1].attn, stock.eager_attention_forward

    def watch(module, query, key, value, attention_mask, **options):
        output, probabilities = eager(module, query, key, value, attention_mask, **options)
        if module is last:
            maps.append(probabilities[0])
            keys.append(key[0])
        return output, probabilities

    inputs = case.inputs((3, picture, 5))[0]
    with tokenprune.apply(case.model, scorer=looker, keep=5):
        case.model(**inputs)
    (seen,) = looker.seen
    monkeypatch.setattr(stock, "eager_attention_forward", watch)
    reference = Case("qwen", "eager").model
    last = reference.model.visual.blocks[-1].attn
    reference(**inputs)
    t, h, w = (1, *picture[1:]) if picture[0] == "I" else picture[1:]
    assert len(maps) == t  # a map a frame
    received = torch.cat([m.mean((0, 1)) for m in maps]).view(-1, 4).mean(1)
    key = torch.cat([k.mean(0) for k in keys]).view(t * h * w, 4, -1).mean(1)
    order = torch.tensor(tokens_in_windows(t, h, w)).argsort()
    torch.testing.assert_close(seen["received_attention"], received[order], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(seen["key_metric"], key[order], atol=1e-5, rtol=1e-4)
