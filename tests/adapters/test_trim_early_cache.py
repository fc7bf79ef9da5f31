# SPDX-License-Identifier: Apache-2.0
"""`trim_early_cache`: the prefill is that of the cut, and decoding sees dropped tokens in no layer."""

import copy
import dataclasses

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import Case
from reference import decoder_by_hand
from reference.hidden_keys import hiding_dropped
from tiny_models import EOS, N, cut_row, llava_inputs
from tokenprune_cli.compare.conversation import ReplayedMethod, Selections
from transformers import DynamicCache, StaticCache

import tokenprune

TOLERANCE = {"atol": 3e-4, "rtol": 1e-3}
METHODS = [
    name
    for name in tokenprune.list_methods()
    if tokenprune.method(name).stage == "decoder" and tokenprune.method(name).reducer is None
]
STEPS = (11, 12, 13, 14)  # an answer


def trimmed(method, **options):
    return tokenprune.method(method, trim_early_cache=True, **options)


def lengths(cache):
    return [layer.keys.shape[2] for layer in cache.layers]


def places(mask):
    """Positions of the tokens of padded rows, as `generate` counts them."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def decoded(model, inputs, steps=STEPS):
    """Logits (B, 1 + T, V) after a prompt and after each token of an answer, and the cache."""
    three_axes, mask = "image_grid_thw" in inputs, inputs["attention_mask"]
    given = {} if three_axes else {"position_ids": places(mask)}
    out = model(**inputs, **given, use_cache=True)
    logits = [out.logits[torch.arange(len(mask)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]]
    for token in steps:
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        ids, at = torch.full((len(mask), 1), token), places(mask)[:, -1:]
        if three_axes:
            at = (at + model.model.rope_deltas)[None].expand(3, -1, -1)
        out = model(input_ids=ids, attention_mask=mask, position_ids=at, **{CACHE: cache_of(out)})
        logits.append(out.logits[:, -1])
    return torch.stack(logits, 1), cache_of(out)


def as_defined(model, inputs, method, keep):
    """The same by the definition: a cut that is not trimmed, and masks in decoding."""
    with tokenprune.apply(model, method=method, keep=keep, trim_early_cache=False), hiding_dropped(model):
        return decoded(model, inputs)


# -- one row, against layers called by hand without a cache


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("method", METHODS)
def test_generate_equals_the_layers_called_by_hand(llava, method, positions):
    equals_by_hand(llava, llava_inputs((3, "I", 5)), method, positions)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llava_next", "qwen"])
@pytest.mark.parametrize("method", METHODS)
def test_so_it_does_on_tiles_and_with_positions_of_three_axes(name, method, attention):
    case = Case(name, attention)
    positions = "original" if name == "qwen" else tokenprune.method(method).positions
    equals_by_hand(case.model, case.single()[0], method, positions)


def equals_by_hand(model, inputs, method, positions):
    chosen = trimmed(method)
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with tokenprune.apply(model, method=chosen, keep=4, positions=positions) as handle:
        out = model.generate(**inputs, **options)
    (image,) = handle.last.images
    tokens, want, decisions = decoder_by_hand.generate(
        model, inputs, chosen, 4, positions, 6, image.layout, trims=True
    )
    assert decisions and set(image.cuts) == set(decisions)
    width, n = inputs["input_ids"].shape[1], len(tokens)
    assert out.sequences[0, width : width + n].tolist() == tokens
    torch.testing.assert_close(torch.stack(out.logits, 1)[0, :n], want, **TOLERANCE)
    n_new = out.sequences.shape[1] - width
    assert lengths(cache_of(out)) == [width - image.n_before + 4 + n_new - 1] * 4


# -- against the definition


@pytest.mark.parametrize("method", METHODS)
def test_a_padded_batch_equals_masks_in_decoding(llava, inputs, method):
    """Unequal numbers of images and lengths; a row without images."""
    want, untrimmed = as_defined(llava, inputs, method, 5)
    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        got, cache = decoded(llava, inputs)
    assert torch.equal(got[:, 0], want[:, 0])  # the prefill is the same, bit for bit
    torch.testing.assert_close(got, want, **TOLERANCE)
    width = inputs["input_ids"].shape[1] + len(STEPS)
    assert lengths(untrimmed)[0] == width and len(set(lengths(untrimmed))) > 1
    assert lengths(cache) == [lengths(untrimmed)[-1]] * 4
    with tokenprune.apply(llava, method=method, keep=5, trim_early_cache=False):
        without, _ = decoded(llava, inputs)
    assert torch.equal(got[:, 0], without[:, 0])
    assert not torch.allclose(got[:2, 1:], without[:2, 1:], atol=0.1)  # what masks hide makes a difference
    torch.testing.assert_close(got[2], without[2], **TOLERANCE)  # nothing of a row without images


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_qwen_equals_masks_in_decoding(method, attention):
    """Images of unequal sizes, and a video."""
    case = Case("qwen", attention)
    inputs, _ = case.batch()
    want, _ = as_defined(case.model, inputs, method, 4)
    with tokenprune.apply(case.model, method=trimmed(method), keep=4):
        got, cache = decoded(case.model, inputs)
    assert torch.equal(got[:, 0], want[:, 0])
    torch.testing.assert_close(got, want, **TOLERANCE)
    assert len(set(lengths(cache))) == 1


@pytest.mark.parametrize("name", ["internvl", "mistral3", "llava_onevision", "aya_vision"])
@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_other_families_equal_masks_in_decoding(name, method):
    model, inputs = tiny_families.model(name), tiny_families.inputs(name, (3, "I", 5), (2, "I", 4, "I", 3))
    want, _ = as_defined(model, inputs, method, 3)
    with tokenprune.apply(model, method=trimmed(method), keep=3):
        got, cache = decoded(model, inputs)
    torch.testing.assert_close(got, want, **TOLERANCE)
    assert len(set(lengths(cache))) == 1


def test_a_cut_before_the_language_model_comes_first(llava, inputs):
    pair = [tokenprune.method("visionzip"), trimmed("pyramiddrop")]
    with tokenprune.apply(llava, method=["visionzip", "pyramiddrop"], keep=[9, 4]), hiding_dropped(llava):
        want, _ = decoded(llava, inputs)
    with tokenprune.apply(llava, method=pair, keep=[9, 4]):
        got, cache = decoded(llava, inputs)
    torch.testing.assert_close(got, want, **TOLERANCE)
    assert len(set(lengths(cache))) == 1
    with tokenprune.apply(llava, method=["visionzip", "fastv"], keep=[9, 4], trim_early_cache=True) as handle:
        assert [cut.method.trim_early_cache for cut in handle.cuts] == [False, True]


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_beams_equal_masks_in_decoding(llava, inputs, method):
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "suppress_tokens": [EOS]}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    with tokenprune.apply(llava, method=method, keep=5):
        without = llava.generate(**inputs, **options)
        with hiding_dropped(llava):
            want = llava.generate(**inputs, **options)
    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        got = llava.generate(**inputs, **options)
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(got.sequences_scores, want.sequences_scores, **TOLERANCE)
    assert not torch.allclose(got.sequences_scores[:2], without.sequences_scores[:2], **TOLERANCE)


# -- batches, static caches, later turns


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_padded_batch_equals_each_row_alone(llava, inputs, method, padding_side):
    rows = [cut_row(inputs, row) for row in range(3)]
    batch = dict(inputs)
    if padding_side == "right":
        for name in ("input_ids", "attention_mask"):
            tokens = [row[name][0] for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        together, _ = decoded(llava, batch)
        alone = torch.cat([decoded(llava, row)[0] for row in rows])
    torch.testing.assert_close(together, alone, **TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_static_cache_equals_dynamic(llava, inputs, method):
    more = llava_inputs((2, "I", 3), (1, "I", 4), (1, "I", 2), seed=7)
    with tokenprune.apply(llava, method=trimmed(method), keep=5) as handle:
        dynamic = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
        held = handle.last.kv_bytes, handle.last.kv_bytes_trimmed
        static = llava.generate(**inputs, max_new_tokens=6, do_sample=False, cache_implementation="static")
        assert torch.equal(dynamic, static)
        assert (handle.last.kv_bytes, handle.last.kv_bytes_trimmed) == held
        logits = []
        for kv in (DynamicCache(), StaticCache(config=llava.config.get_text_config(), max_cache_len=99)):
            llava(**inputs, use_cache=True, **{CACHE: kv})
            n = inputs["input_ids"].shape[1]
            at = torch.arange(n, n + more["input_ids"].shape[1])[None].expand(3, -1)
            mask = torch.cat([inputs["attention_mask"], more["attention_mask"]], 1)
            given = {**more, "attention_mask": mask, "position_ids": at}
            logits.append(llava(**given, **{CACHE: kv}, use_cache=True).logits[:, -1])
            ids = torch.full((3, 1), 7)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            last = at[:, -1:] + 1
            out = llava(input_ids=ids, attention_mask=mask, position_ids=last, **{CACHE: kv})
            logits.append(out.logits[:, -1])
    torch.testing.assert_close(logits[2:], logits[:2], **TOLERANCE)


def two_turns(model, first, second, steps=STEPS[:2]):
    """Logits of a prompt, an answer, a second prompt and another answer of rows without padding."""
    logits, kv = decoded(model, first, steps)
    mask = torch.nn.functional.pad(second["attention_mask"], (kv.get_seq_length(), 0), value=1)
    logits = [logits]
    out = model(**{**second, "attention_mask": mask}, **{CACHE: kv}, use_cache=True)
    logits.append(out.logits[:, -1:])
    for token in steps:
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        ids = torch.full((len(mask), 1), token)
        logits.append(model(input_ids=ids, attention_mask=mask, **{CACHE: kv}).logits)
    return torch.cat(logits, 1), kv


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("second", [(4,), (2, "I", 3)])
@pytest.mark.parametrize("method", METHODS)
def test_a_second_turn_equals_masks_from_the_first_answer_on(llava, method, second, positions):
    """The second picture is cut and trimmed like the first, whose rows stay as they are.

    What is dropped in the second turn is chosen by attention without what the first one dropped, so the
    reference repeats the choice; its scores are compared in the next test.
    """
    first, more = llava_inputs((3, "I", 5)), llava_inputs(second, seed=5)
    chosen, picks = trimmed(method), Selections()
    fields = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(tokenprune.Method)}
    replayed = ReplayedMethod(**fields, selections=picks)
    with tokenprune.apply(llava, method=replayed, keep=5, positions=positions) as handle:
        got, kv = two_turns(llava, first, more)
        seen, n_images = kv.get_seq_length(), 1 + ("I" in second)
        assert seen == 25 + more["input_ids"].shape[1] + 4
        assert lengths(kv) == [seen - (N - 5) * n_images] * 4
        assert [image.n_after for image in handle.last.images] == [5]
    picks.replay()
    untrimmed = dataclasses.replace(replayed, trim_early_cache=False)
    with tokenprune.apply(llava, method=untrimmed, keep=5, positions=positions), hiding_dropped(llava):
        want, _ = two_turns(llava, first, more)
    torch.testing.assert_close(got, want, **TOLERANCE)


def test_attention_in_a_second_turn_is_without_what_the_first_one_dropped():
    """FastV's scores of a second picture, from the attention maps of the definition."""
    model = tiny_models.llava("eager")
    first, more = llava_inputs((3, "I", 5)), llava_inputs((2, "I", 3), seed=5)
    with tokenprune.apply(model, method=trimmed("fastv"), keep=5, layer=2) as handle:
        two_turns(model, first, more)
        scores = handle.last.images[0].scores
    with tokenprune.apply(model, method="fastv", keep=5, layer=2), hiding_dropped(model):
        _, kv = decoded(model, first, STEPS[:2])
        rows = {name: more[name] for name in ("input_ids", "pixel_values")}
        maps = model(**rows, **{CACHE: kv}, output_attentions=True).attentions
    n_past = maps[1].shape[3] - maps[1].shape[2]
    assert n_past == 27
    row = maps[1][0, :, -1, n_past + 3 : n_past + 3 + N]
    torch.testing.assert_close(scores, row.mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("second", [(4,), (2, "I", 3)])
@pytest.mark.parametrize("method", METHODS)
def test_a_second_turn_of_a_padded_batch_equals_each_row_alone(llava, method, second):
    first, more = llava_inputs((3, "I", 5), (2, "I", 9)), llava_inputs(second, second, seed=5)
    options = {"do_sample": False, "return_dict_in_generate": True, "suppress_tokens": [EOS]}

    def turns(one, two):
        out = llava.generate(**one, **options, max_new_tokens=4)
        ids = torch.cat([out.sequences, two["input_ids"][:, 1:]], 1)
        n = ids.shape[1] - one["input_ids"].shape[1]
        mask = torch.nn.functional.pad(one["attention_mask"], (0, n), value=1)
        given = {"input_ids": ids, "attention_mask": mask}
        given |= {k: v for k, v in two.items() if k == "pixel_values"}
        out = llava.generate(
            **given, **{CACHE: cache_of(out)}, **options, max_new_tokens=4, output_logits=True
        )
        return torch.stack(out.logits, 1)

    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        together = turns(first, more)
        alone = [turns(cut_row(first, row), cut_row(more, row))[0] for row in range(2)]
    torch.testing.assert_close(together, torch.stack(alone), **TOLERANCE)


def test_a_second_turn_of_unequal_pictures(llava):
    """In the second turn one row has two pictures, and the other none."""
    first = llava_inputs((3, "I", 5), (3, "I", 5), seed=3)
    ids = [llava_inputs(row, seed=3)["input_ids"] for row in ((2, "I", "I", 4), (38,))]
    more = {"input_ids": torch.cat(ids), "attention_mask": torch.ones(2, ids[0].shape[1], dtype=torch.long)}
    more["pixel_values"] = llava_inputs(("I", "I"), seed=4)["pixel_values"]
    with tokenprune.apply(llava, method=trimmed("pyramiddrop"), keep=5):
        together, kv = two_turns(llava, first, more)
        one, _ = two_turns(
            llava, cut_row(first, 0), cut_row(more, 0) | {"pixel_values": more["pixel_values"]}
        )
        other, _ = two_turns(llava, cut_row(first, 1), cut_row(more, 1))
    torch.testing.assert_close(together, torch.cat([one, other]), **TOLERANCE)
    assert len(set(lengths(kv))) == 1


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_a_picture_on_a_padded_turn_of_text(llava, method):
    """The first turn was not pruned: its padding stays hidden, and only rows of the picture are removed."""
    first, more = llava_inputs((3,), (9,)), llava_inputs((2, "I", 3), (2, "I", 3), seed=7)

    def turns(one, two):
        start = one["attention_mask"]
        kv = cache_of(llava(**one, position_ids=places(start), use_cache=True))
        mask = torch.cat([start, two["attention_mask"]], 1)
        at = places(mask)[:, start.shape[1] :]
        logits = [llava(**{**two, "attention_mask": mask}, position_ids=at, **{CACHE: kv}).logits[:, -1]]
        for token in STEPS:
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            ids, at = torch.full((len(mask), 1), token), places(mask)[:, -1:]
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": at}
            logits.append(llava(**given, **{CACHE: kv}).logits[:, -1])
        return torch.stack(logits, 1), kv

    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        together, kv = turns(first, more)
        alone = [turns(cut_row(first, row), cut_row(more, row))[0] for row in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), **TOLERANCE)
    assert lengths(kv) == [10 + 6 + 5 + 4] * 4
    with tokenprune.apply(llava, method=method, keep=5), hiding_dropped(llava):
        want = turns(cut_row(first, 1), cut_row(more, 1))[0]
    torch.testing.assert_close(alone[1], want, **TOLERANCE)


@pytest.mark.parametrize("method", ["fastv", "pyramiddrop"])
def test_later_masks_hide_answers_that_a_trimmed_cache_stores(llava, method):
    """The PADs after a shorter answer, which the mask of the next question hides."""
    first = llava_inputs((3, "I", 5), (2, "I", 6))
    answer, real = (
        torch.tensor([[11, EOS, 0, 0], [21, 22, 23, 24]]),
        torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
    )

    def talk(one, said, said_real):
        start = one["attention_mask"]
        kv = cache_of(llava(**one, position_ids=places(start), use_cache=True))
        n = said.shape[1]
        mask = torch.nn.functional.pad(start, (0, n), value=1)
        given = {"attention_mask": mask, "position_ids": places(mask)[:, -n:]}
        llava(input_ids=said, **given, **{CACHE: kv})
        mask = torch.nn.functional.pad(torch.cat([start, said_real], 1), (0, 3), value=1)
        given = {"attention_mask": mask, "position_ids": places(mask)[:, -3:]}
        ids = torch.tensor([[31, 32, 33]]).expand(len(mask), -1)
        return llava(input_ids=ids, **given, **{CACHE: kv}).logits[:, -1]

    with tokenprune.apply(llava, method=trimmed(method), keep=5):
        together = talk(first, answer, real)
        alone = []
        for row in range(2):
            n = int(real[row].sum())
            alone.append(talk(cut_row(first, row), answer[row : row + 1, :n], real[row : row + 1, :n]))
    torch.testing.assert_close(together, torch.cat(alone), **TOLERANCE)


# -- the cache afterwards


def test_cropping_works_after_the_prompt_and_is_refused_into_it(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method=trimmed("fastv"), keep=5):
        want, kv = decoded(llava_sdpa, inputs)
        kv.crop(-3)
        assert kv.get_seq_length() == 26 and lengths(kv) == [15] * 4
        again = llava_sdpa(input_ids=torch.tensor([[12]]), **{CACHE: kv}).logits[:, -1]
        torch.testing.assert_close(again, want[:, 2], **TOLERANCE)
        with pytest.raises(tokenprune.UnsupportedCallError, match="cannot be cropped into a pruned prompt"):
            kv.crop(-3)
        assert lengths(kv) == [16] * 4  # refused by the first layer, before any was cropped


def test_a_cache_is_copied_reset_and_belongs_to_its_pruning(llava_sdpa):
    inputs, ids = llava_inputs((3, "I", 5)), torch.tensor([[11]])
    with tokenprune.apply(llava_sdpa, method=trimmed("pyramiddrop"), keep=5):
        kv = cache_of(llava_sdpa(**inputs, use_cache=True))
        twin = copy.deepcopy(kv)
        want = llava_sdpa(input_ids=ids, **{CACHE: kv}).logits
        assert torch.equal(llava_sdpa(input_ids=ids, **{CACHE: twin}).logits, want)
        static = StaticCache(config=llava_sdpa.config.get_text_config(), max_cache_len=40)
        for _ in range(2):
            llava_sdpa(**inputs, **{CACHE: static})
            got = llava_sdpa(input_ids=ids, **{CACHE: static}).logits
            torch.testing.assert_close(got, want, **TOLERANCE)
            static.reset()
    with pytest.raises(tokenprune.StaleCacheError):
        llava_sdpa(input_ids=ids, **{CACHE: kv})


def test_keeping_everything_and_undo_are_bit_identical(llava, inputs):
    before, _ = decoded(llava, inputs)
    with tokenprune.apply(llava, method=trimmed("pyramiddrop"), keep=N) as handle:
        after, kv = decoded(llava, inputs)
        assert handle.last.kv_bytes == handle.last.kv_bytes_unpruned and not handle.last.kv_bytes_trimmed
        assert lengths(kv) == [inputs["input_ids"].shape[1] + 4] * 4
    assert torch.equal(before, after)
    with tokenprune.apply(llava, method=trimmed("pyramiddrop"), keep=4):
        decoded(llava, inputs)
    assert torch.equal(before, decoded(llava, inputs)[0])


def test_without_a_cache_there_is_nothing_to_trim(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, method=trimmed("fastv"), keep=4) as handle:
        got = llava_sdpa(**inputs, use_cache=False).logits
        assert (handle.last.kv_bytes, handle.last.kv_bytes_trimmed) == (0, 0)
    with tokenprune.apply(llava_sdpa, method="fastv", keep=4):
        assert torch.equal(llava_sdpa(**inputs, use_cache=False).logits, got)


# -- the report


def test_bytes_by_hand(llava_sdpa):
    """A token is 2 heads x 16 wide x 2 (keys and values) x 4 bytes in each of 4 layers; 9 of text."""
    token = 2 * 16 * 2 * 4
    inputs = llava_inputs((3, "I", 5))
    for trim in (False, True):
        with tokenprune.apply(
            llava_sdpa, method="pyramiddrop", schedule={1: 8, 3: 4}, trim_early_cache=trim
        ) as handle:
            kv, report = cache_of(llava_sdpa(**inputs, use_cache=True)), handle.last
        assert report.images[0].rows_entering(4) == [16, 8, 8, 4]
        untrimmed = sum(9 + n for n in (16, 8, 8, 4)) * token
        assert report.kv_bytes == (4 * (9 + 4) * token if trim else untrimmed)
        assert report.kv_bytes + report.kv_bytes_trimmed == untrimmed
        assert report.kv_bytes_unpruned == 4 * 25 * token
        assert report.kv_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in kv.layers)
        assert (f"({report.kv_bytes_trimmed} trimmed from early layers)" in str(report)) is trim


def test_a_trace_shows_what_is_stored_in_the_end(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(
        llava_sdpa, method=trimmed("pyramiddrop"), schedule={1: 8, 3: 4}, trace=True
    ) as handle:
        decoded(llava_sdpa, inputs)
        assert [(at.layer, at.stored, at.seen) for at in handle.trace().boundaries] == [
            (1, 17, 29),
            (3, 17, 29),
        ]
        llava_sdpa(**inputs, use_cache=True)
    first, second = handle.trace().boundaries
    assert (first.rows[0].n_out, first.stored, second.rows[0].n_out, second.stored) == (17, 13, 13, 13)
