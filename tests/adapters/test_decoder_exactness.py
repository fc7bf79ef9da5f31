# SPDX-License-Identifier: Apache-2.0
"""Promise 2 at the decoder stage: layers called by hand on each group's rows, and masked full-length runs."""

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from reference import decoder_by_hand
from tiny_models import EOS, IMAGE, cut_row, llava_inputs

import tokenprune

TOLERANCE = {"atol": 3e-4, "rtol": 1e-3}
DECODER_METHODS = [name for name in tokenprune.list_methods() if tokenprune.method(name).stage == "decoder"]


def generated(model, inputs, **options):
    out = model.generate(
        **inputs,
        max_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out, torch.stack(out.logits, 1)


def default_positions(method):
    return tokenprune.method(method).positions or "contiguous"


@pytest.mark.parametrize("method", DECODER_METHODS)
def test_prefill_and_decode_equal_the_layers_called_by_hand(llava, method):
    equals_by_hand(llava, llava_inputs((3, "I", 5)), method, default_positions(method))


@pytest.mark.parametrize("name", ["llava_next", "qwen"])
@pytest.mark.parametrize("method", DECODER_METHODS)
def test_so_they_do_on_the_other_two_models(name, method):
    """Tiles with newlines; positions on three axes, where made rows take those of free slots."""
    case = Case(name)
    equals_by_hand(
        case.model, case.single()[0], method, "original" if name == "qwen" else default_positions(method)
    )


def equals_by_hand(model, inputs, method, positions):
    chosen = tokenprune.method(method)
    with tokenprune.apply(model, method=chosen, keep=4) as handle:
        out, logits = generated(model, inputs)
    image = handle.last.images[0]
    trims = chosen.trim_early_cache
    tokens, want, decisions = decoder_by_hand.generate(
        model, inputs, chosen, 4, positions, 6, image.layout, trims
    )
    assert decisions and set(image.cuts) == set(decisions)
    assert image.selection.indices.tolist() == decisions[max(decisions)].indices.tolist()
    assert image.n_after == 4
    width = inputs["input_ids"].shape[1]
    assert out.sequences[0, width : width + len(tokens)].tolist() == tokens
    torch.testing.assert_close(logits[0, : len(tokens)], want, **TOLERANCE)
    stored = [layer.keys.shape[2] for layer in cache_of(out).layers]
    n_new = out.sequences.shape[1] - width
    text = width - image.n_before
    assert stored == [text + (4 if trims else rows) + n_new - 1 for rows in image.rows_entering(4)]


@pytest.mark.parametrize("method", DECODER_METHODS)
def test_a_padded_batch_equals_each_row_alone(llava, inputs, method):
    with tokenprune.apply(llava, method=method, keep=5):
        together, logits = generated(llava, inputs)
        for row in range(3):
            one = cut_row(inputs, row)
            alone, want = generated(llava, one)
            n = len(alone.sequences[0]) - one["input_ids"].shape[1]
            start = inputs["input_ids"].shape[1]
            assert together.sequences[row, start : start + n].tolist() == alone.sequences[0, -n:].tolist()
            torch.testing.assert_close(logits[row, :n], want[0], **TOLERANCE)


@pytest.mark.parametrize("method", DECODER_METHODS)
def test_static_cache_equals_dynamic_and_beams_run(llava, inputs, method):
    with tokenprune.apply(llava, method=method, keep=5):
        dynamic = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
        static = llava.generate(**inputs, max_new_tokens=6, do_sample=False, cache_implementation="static")
        assert torch.equal(dynamic, static)
        one = cut_row(inputs, 0)
        alone = llava.generate(**one, max_new_tokens=6, num_beams=3, do_sample=False)
        start = inputs["input_ids"].shape[1]
        pair = {k: v[:2] if k != "pixel_values" else v for k, v in inputs.items()}
        beams = llava.generate(**pair, max_new_tokens=6, num_beams=3, do_sample=False)[0, start:]
    got, want = beams.tolist(), alone[0, one["input_ids"].shape[1] :].tolist()
    n = min(len(got), len(want))
    assert got[:n] == want[:n]


@pytest.mark.parametrize("method", DECODER_METHODS)
@pytest.mark.parametrize("second", [(4,), (2, "I", 3)])
def test_a_second_turn_on_a_padded_batch_equals_each_row_alone(llava, method, second):
    first, more = llava_inputs((3, "I", 5), (2, "I", 9)), llava_inputs(second, second, seed=5)

    def two_turns(one, two):
        out = llava.generate(
            **one, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, suppress_tokens=[EOS]
        )
        ids = torch.cat([out.sequences, two["input_ids"][:, 1:]], 1)
        ones = torch.ones(len(ids), ids.shape[1] - one["input_ids"].shape[1], dtype=torch.long)
        mask = torch.cat([one["attention_mask"], ones], 1)
        images = {k: v for k, v in two.items() if k == "pixel_values"}
        out, logits = generated(
            llava, {"input_ids": ids, "attention_mask": mask, **images}, **{CACHE: cache_of(out)}
        )
        return logits

    with tokenprune.apply(llava, method=method, keep=5):
        together = two_turns(first, more)
        for row in range(2):
            alone = two_turns(cut_row(first, row), cut_row(more, row))
            n = min(together.shape[1], alone.shape[1])
            torch.testing.assert_close(together[row, :1], alone[0, :1], **TOLERANCE)
            assert together[row, :n].argmax(-1).tolist() == alone[0, :n].argmax(-1).tolist()


@pytest.mark.parametrize("method", DECODER_METHODS)
def test_keeping_everything_is_bit_identical(llava, inputs, method):
    before = [llava(**inputs).logits, generated(llava, inputs)[1]]
    with tokenprune.apply(llava, method=method, keep=16):
        after = [llava(**inputs).logits, generated(llava, inputs)[1]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    again = [llava(**inputs).logits, generated(llava, inputs)[1]]
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))


def test_a_fastv_run_equals_a_masked_full_length_run(llava):
    """Drop-only with original positions: the same as hiding the dropped tokens from the cut on."""
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava, method="fastv", keep=5, layer=2) as handle:
        got = llava(**inputs).logits[0, -1]
        kept = handle.last.images[0].kept
    hidden_slots = [4 + slot for slot in range(16) if slot not in kept.tolist()]
    n = inputs["input_ids"].shape[1]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, hidden_slots] = False
    mask[hidden_slots, hidden_slots] = True  # their own rows may do as they like, nobody sees them
    if llava.config._attn_implementation == "eager":
        mask = torch.zeros(n, n).masked_fill(~mask, torch.finfo(torch.float32).min)

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask[None, None]}

    layers = llava.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in layers[2:]]
    try:
        want = llava(**inputs).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(got, want, **TOLERANCE)


def test_a_fastv_row_equals_eager_attention(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method="fastv", keep=5, layer=2) as handle:
        llava_sdpa(**inputs)
        scores = handle.last.images[0].scores
    implementation = llava_sdpa.config._attn_implementation
    llava_sdpa.set_attn_implementation("eager")
    maps = llava_sdpa(**inputs, output_attentions=True).attentions
    llava_sdpa.set_attn_implementation(implementation)
    torch.testing.assert_close(scores, maps[1][0, :, -1, 4:20].mean(0), atol=1e-5, rtol=0)


def test_cls_attention_and_keys_equal_the_towers_own(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    seen = {}

    class Look(tokenprune.Scorer):
        name = "look"
        needs = frozenset({"cls_attention", "key_metric", "cls_hidden", "received_attention"})

        def score(self, tokens):
            seen.update({name: tokens.signal(name) for name in self.needs})
            return seen["received_attention"]

    with tokenprune.apply(llava_sdpa, scorer=Look(), keep=5):
        llava_sdpa(**inputs)
    tower = llava_sdpa.model.vision_tower
    implementation = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    out = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation(implementation)
    map_ = out.attentions[-2][0]
    torch.testing.assert_close(seen["cls_attention"], map_[:, 0, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen["received_attention"], map_[:, 1:, 1:].mean((0, 1)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen["cls_hidden"], out.hidden_states[-2][0, :1], atol=1e-4, rtol=1e-4)
    inner = getattr(tower, "vision_model", tower)
    layer = inner.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-3]))[0, 1:].view(16, 4, 8).mean(1)
    torch.testing.assert_close(seen["key_metric"], keys, atol=1e-4, rtol=1e-4)


def test_a_projector_cut_and_a_decoder_cut_together(llava, inputs):
    """ZOO before the language model, FastV inside it: the same as FastV on the rows ZOO leaves."""
    with tokenprune.apply(llava, method=["zoo-exact", "fastv"], keep=[8, 4]) as handle:
        together, logits = generated(llava, inputs)
        assert [image.rows_entering(4) for image in handle.last.images] == [[8, 4, 4, 4]] * 3
        for row in range(3):
            one = cut_row(inputs, row)
            alone, want = generated(llava, one)
            n = want.shape[1]
            torch.testing.assert_close(logits[row, :n], want[0], **TOLERANCE)
    stored = [layer.keys.shape[2] for layer in cache_of(together).layers]
    n_new = together.sequences.shape[1] - inputs["input_ids"].shape[1]
    assert stored == [10 + rows + n_new - 1 for rows in (16, 8, 8, 8)]


def test_hidden_states_come_back_at_full_length(llava):
    inputs = llava_inputs((3, "I", 5), (1,))
    with tokenprune.apply(llava, method="fastv", keep=4):
        out = llava(**inputs, output_hidden_states=True)
    assert {h.shape[1] for h in out.hidden_states} == {inputs["input_ids"].shape[1]}


def test_bad_schedules_are_refused(llava_sdpa):
    wrong = [
        ({"method": "fastv", "keep": 4, "layer": 4}, tokenprune.IncompatibleError, "0 ... 3"),
        ({"method": "fastv", "schedule": {1: 4, 2: 8}}, tokenprune.BudgetError, "not increase"),
        ({"method": "fastv", "schedule": {1: 4}, "keep": 4}, tokenprune.BudgetError, "leave out keep"),
        ({"method": "fastv", "keep": 4, "layer": 2.5}, tokenprune.OptionError, "index of a decoder layer"),
        ({"method": ["fastv", "zoo-exact"], "keep": [4, 4]}, tokenprune.IncompatibleError, "combined"),
        ({"method": "divprune", "stage": "decoder", "keep": 4}, tokenprune.IncompatibleError, "layer"),
        ({"scorer": "zoo", "layer": 2, "keep": 4}, tokenprune.IncompatibleError, "pre_features"),
    ]
    for arguments, error, word in wrong:
        with pytest.raises(error, match=word):
            tokenprune.apply(llava_sdpa, **arguments)
    assert not tokenprune.is_pruned(llava_sdpa) and IMAGE == 90


def test_a_pair_with_a_layer_cuts_in_the_decoder(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, selector="diverse", layer=2, keep=5) as handle:
        llava_sdpa(**inputs)
        assert handle.last.images[0].rows_entering(4) == [16, 16, 5, 5]
    with tokenprune.apply(llava_sdpa, selector="diverse", schedule={1: 9, 3: 2}) as handle:
        llava_sdpa(**inputs)
        assert handle.last.images[0].rows_entering(4) == [16, 9, 9, 2]


def fastv_on_tiles(**options):
    """What FastV keeps of a picture of five tiles, 20 rows before layer 2."""
    model = tiny_models.llava_next()
    inputs = tiny_models.llava_next_inputs(model, [(3, "I", 5)], [(64, 64)])
    with tokenprune.apply(model, method="fastv", layer=2, keep=20, **options) as handle:
        model(**inputs)
    (image,) = handle.last.images
    return image


def test_tiles_inside_the_decoder_share_the_budget():
    whole, found = fastv_on_tiles(), fastv_on_tiles(scope="tile", newlines="drop")
    tiles = whole.layout.tiles.masked_fill(whole.layout.newlines, -1)
    best = [whole.scores.masked_fill(tiles != tile, -1).topk(4).indices for tile in range(5)]
    assert found.kept.tolist() == torch.cat(best).sort().values.tolist()


@pytest.mark.parametrize("newlines", ["drop", "keep"])
def test_newlines_inside_the_decoder_are_dropped_or_kept_on_top(newlines):
    whole, found = fastv_on_tiles(), fastv_on_tiles(newlines=newlines)
    best = whole.scores.masked_fill(whole.layout.newlines, -1).topk(20).indices
    extra = whole.layout.newlines.nonzero()[:, 0] if newlines == "keep" else best[:0]
    assert found.kept.tolist() == torch.cat([best, extra]).sort().values.tolist()


@pytest.mark.parametrize("options", [{"scope": "tile"}, {"newlines": "keep"}])
def test_tiles_inside_the_decoder_are_of_one_cut(options):
    model = tiny_models.llava_next()
    with pytest.raises(tokenprune.IncompatibleError, match="need a single cut, but method 'pyramiddrop'"):
        tokenprune.apply(model, method="pyramiddrop", keep=8, layer=[1, 2, 3], **options)


def test_the_order_of_a_set_is_refused_where_a_position_is_three_numbers():
    method = tokenprune.method("dart", visit="set")
    with pytest.raises(tokenprune.IncompatibleError, match="use visit='listed'"):
        tokenprune.apply(tiny_models.qwen(), method=method, layer=2, keep=8)
    with tokenprune.apply(tiny_models.llava(), method=method, layer=2, keep=8):
        pass
