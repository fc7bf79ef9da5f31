# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from tokenprune_periscope.adapter import PeriscopeAdapter
from tokenprune_periscope.model import tiny_periscope

import tokenprune
from tokenprune.testing import check_adapter, check_model

N, IMAGE = 16, 90  # visual tokens of an image, and the token that stands for each


@pytest.fixture
def model():
    return tiny_periscope()


@pytest.fixture
def inputs():
    """Two images between text tokens."""
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[30, 31, 32, *[IMAGE] * N, 33, *[IMAGE] * N, 34, 35]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


class Noting(tokenprune.Scorer):
    """Scores a token by the class token's attention, and keeps the signals of each image in `noted`."""

    name = "noting"
    needs = frozenset({"cls_attention", "received_attention", "key_metric", "pre_features", "projector"})
    needs |= {"cls_hidden", "tower_received", "tower_depth"}
    noted = []

    def tower_blocks(self, depth):
        return (depth - 1,)

    def score(self, tokens):
        signals = {name: tokens.signal(name) for name in self.needs}
        self.noted.append({**signals, "features": tokens.features})
        return signals["cls_attention"].mean(0)


@pytest.fixture
def noted(model, inputs, monkeypatch):
    """The signals of both images, by name."""
    monkeypatch.setattr(Noting, "noted", [])
    handle = tokenprune.apply(model, scorer=Noting(), selector="topk", keep=5)
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return Noting.noted[-2:]  # the rehearsal in `apply` comes before


def test_the_declarations_are_right(model):
    check_adapter(PeriscopeAdapter, model)


def test_every_promise_holds_with_every_method_that_runs(model):
    check = check_model(model)
    assert check.passed, str(check)
    checked = {record.method for record in check.records if record.outcome == "passed"}
    assert {"zoo-exact", "visionzip", "hiprune", "tower-diverse", "fastv", "pyramiddrop"} <= checked


def test_every_promise_holds_with_a_cut_inside_the_tower(model):
    check = check_model(model, methods=[tokenprune.method("divprune", stage="vision", layer=2)])
    assert check.passed, str(check)
    assert {record.outcome for record in check.records} == {"passed"}


def test_signals_after_a_cut_inside_the_tower_are_those_of_what_left_it(model, inputs):
    first = tokenprune.method("divprune", stage="vision", layer=2)
    handle = tokenprune.apply(model, method=[first, "visionzip"], keep=[8, 4])
    with torch.no_grad():
        model(**inputs)
    assert [image.n_after for image in handle.last.images] == [4, 4]
    handle.remove()


def test_a_pruned_answer_is_that_of_the_decoder_on_the_kept_rows(model, inputs):
    handle = tokenprune.apply(model, method="zoo-exact", keep=5)
    with torch.no_grad():
        pruned = model(**inputs).logits[0, -1]
        answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    first, second = (image.kept for image in handle.last.images)
    handle.remove()

    scope, ids = model.scope, inputs["input_ids"]
    with torch.no_grad():
        rows = scope.lens(inputs["pixel_values"]).last_hidden_state[:, 1:]
        kept = torch.cat([scope.coupler(rows[0, first]), scope.coupler(rows[1, second])])
        text = scope.reader.embed_tokens(ids[0, ids[0] != IMAGE])
        entered = torch.cat([text[:3], kept[:5], text[3:4], kept[5:], text[4:]])
        by_hand = model.lm_head(scope.reader(inputs_embeds=entered[None]).last_hidden_state[0, -1])
    torch.testing.assert_close(pruned, by_hand, rtol=0, atol=1e-5)
    assert answer[0, ids.shape[1]] == by_hand.argmax()


def test_the_signals_of_the_projector_are_its_inputs_and_its_weights(model, inputs, noted):
    with torch.no_grad():
        rows = model.scope.lens(inputs["pixel_values"]).last_hidden_state[:, 1:]
        for signals, of_image in zip(noted, rows, strict=True):
            centred = of_image - of_image.mean(-1, keepdim=True)
            torch.testing.assert_close(signals["pre_features"], centred)
            torch.testing.assert_close(signals["projector"](centred), model.scope.coupler(of_image))
            torch.testing.assert_close(signals["projector"].linear_form()(centred), signals["features"])


def test_the_signals_of_the_tower_are_its_own_attention(model, inputs, noted):
    tower = model.scope.lens
    tower.set_attn_implementation("eager")  # which returns attention
    with torch.no_grad():
        seen = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        last = tower.encoder.layers[-1]
        keys = last.self_attn.k_proj(last.layer_norm1(seen.hidden_states[-2]))  # (2, 17, 4 heads * 8)
    for number, signals in enumerate(noted):
        attention = seen.attentions[-1][number]  # (4 heads, 17, 17), the class token first
        torch.testing.assert_close(signals["cls_attention"], attention[:, 0, 1:])
        torch.testing.assert_close(signals["received_attention"], attention[:, 1:, 1:].mean((0, 1)))
        torch.testing.assert_close(signals["tower_received"](3), attention[:, :, 1:].mean((0, 1)))
        torch.testing.assert_close(signals["key_metric"], keys[number, 1:].view(N, 4, 8).mean(1))
        torch.testing.assert_close(signals["cls_hidden"], seen.last_hidden_state[number, :1])
        assert signals["tower_depth"] == 4
