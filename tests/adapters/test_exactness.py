# SPDX-License-Identifier: Apache-2.0
"""Promise 2: a pruned run equals the language model called by hand on the kept rows, rightly placed."""

import pytest
import torch
from cache_names import CACHE, cache_of
from reference import llava_by_hand
from tiny_models import EOS, llava_inputs

import tokenprune

TOLERANCE = {"atol": 2e-4, "rtol": 1e-3}


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "stride"])
def test_prefill_and_decode_equal_the_reference(llava, inputs, method, positions):
    chosen = tokenprune.method(method)
    rows = llava_by_hand.rows_of(llava, inputs, chosen, 5, positions)
    with tokenprune.apply(llava, method=chosen, keep=5, positions=positions):
        out = llava.generate(
            **inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out.sequences[:, :width], inputs["input_ids"])
    logits = torch.stack(out.logits, 1)
    for i, (embeds, places, after) in enumerate(rows):
        tokens, want = llava_by_hand.generate(llava, embeds, places, after, 6)
        assert out.sequences[i, width : width + len(tokens)].tolist() == tokens
        torch.testing.assert_close(logits[i, : len(tokens)], want, **TOLERANCE)


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_plain_forward_logits_at_every_kept_token(llava, positions):
    inputs = llava_inputs((3, "I", 5))
    method = tokenprune.method("stride")
    ((embeds, places, _),) = llava_by_hand.rows_of(llava, inputs, method, 4, positions)
    want = llava_by_hand.logits(llava, embeds, places)
    with tokenprune.apply(llava, method=method, keep=4, positions=positions) as handle:
        got = llava(**inputs).logits[0]
        kept = handle.last.images[0].kept
    assert kept.tolist() == [2, 6, 10, 14]
    assert len(got) == inputs["input_ids"].shape[1]
    slots = torch.cat([torch.arange(4), 4 + kept, torch.arange(20, 25)])
    torch.testing.assert_close(got[slots], want, **TOLERANCE)
    assert torch.equal(got[7], got[6]) and torch.equal(got[19], got[18])  # dropped: the kept token before


def test_labels_and_loss(llava):
    inputs = llava_inputs((3, "I", 5))
    labels = inputs["input_ids"].clone()
    labels[:, :20] = -100
    method = tokenprune.method("zoo-exact")
    ((embeds, places, _),) = llava_by_hand.rows_of(llava, inputs, method, 5, "contiguous")
    logits = llava_by_hand.logits(llava, embeds, places)
    want = torch.nn.functional.cross_entropy(logits[-6:-1], labels[0, -5:])
    with tokenprune.apply(llava, method=method, keep=5), torch.enable_grad():
        out = llava(**inputs, labels=labels, use_cache=False)
        out.loss.backward()
    torch.testing.assert_close(out.loss.detach(), want, **TOLERANCE)
    gradient = llava.model.multi_modal_projector.linear_2.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    llava.zero_grad()


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("second", [(4,), (2, "I", 3)])
def test_second_turn_on_the_same_cache(llava, positions, second):
    method = tokenprune.method("stride")
    first, more = llava_inputs((3, "I", 5), (2, "I", 9)), llava_inputs(second, second, seed=5)
    with tokenprune.apply(llava, method=method, keep=5, positions=positions):
        out = llava.generate(**first, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([out.sequences, more["input_ids"][:, 1:]], 1)
        n_new = ids.shape[1] - first["attention_mask"].shape[1]
        mask = torch.cat([first["attention_mask"], torch.ones(2, n_new, dtype=torch.long)], 1)
        images = {k: v for k, v in more.items() if k == "pixel_values"}
        out = llava.generate(
            input_ids=ids,
            attention_mask=mask,
            **{CACHE: cache_of(out)},
            **images,
            max_new_tokens=5,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.stack(out.logits, 1)
    for i in range(2):
        pixels = [first["pixel_values"][i : i + 1], *(v[i : i + 1] for v in images.values())]
        row = {
            "input_ids": ids[i : i + 1],
            "attention_mask": mask[i : i + 1],
            "pixel_values": torch.cat(pixels),
        }
        ((embeds, places, after),) = llava_by_hand.rows_of(llava, row, method, 5, positions)
        tokens, want = llava_by_hand.generate(llava, embeds, places, after, 5)
        assert out.sequences[i, ids.shape[1] : ids.shape[1] + len(tokens)].tolist() == tokens
        torch.testing.assert_close(logits[i, : len(tokens)], want, **TOLERANCE)
    seen = cache_of(out).get_seq_length()
    assert seen == out.sequences.shape[1] - 1
    assert cache_of(out).layers[0].keys.shape[2] == seen - 11 * (1 + len(images))


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_decoding_by_hand_goes_on_at_the_right_position(llava, positions):
    """A model called with a token and a cache alone, without position_ids."""
    inputs = llava_inputs((3, "I", 5))
    method = tokenprune.method("stride")
    ((embeds, places, after),) = llava_by_hand.rows_of(llava, inputs, method, 5, positions)
    tokens, want = llava_by_hand.generate(llava, embeds, places, after, 3)
    with tokenprune.apply(llava, method=method, keep=5, positions=positions):
        out = llava(**inputs, use_cache=True)
        for step, token in enumerate(tokens[:-1]):
            if token == EOS:
                break
            out = llava(input_ids=torch.tensor([[token]]), **{CACHE: cache_of(out)})
            torch.testing.assert_close(out.logits[0, -1], want[step + 1], **TOLERANCE)


def test_hidden_states_come_back_at_full_length(llava):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava, method="stride", keep=4):
        out = llava(**inputs, output_hidden_states=True)
    assert {h.shape[1] for h in out.hidden_states} == {inputs["input_ids"].shape[1]}
