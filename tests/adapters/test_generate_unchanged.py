# SPDX-License-Identifier: Apache-2.0
"""Promise 4: generate() works as before for the caller, in every mode."""

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from packaging.version import Version
from tiny_models import IMAGE, cut_row, llava_inputs
from transformers import DynamicCache, StaticCache
from transformers import __version__ as transformers_version

import tokenprune

MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "beams": {"do_sample": False, "num_beams": 3},
    "beams, several returned": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "several returned": {"do_sample": True, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}
EXPANDS_WRONGLY = Version(transformers_version) < Version("5.20")


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("mode", MODES)
def test_cached_equals_uncached(llava, inputs, mode, positions):
    """Without a cache every step prunes afresh and nothing is carried over: an independent run."""
    if EXPANDS_WRONGLY and mode not in ("greedy", "sampling"):
        pytest.xfail("transformers before 5.20 repeats [A, B] as [A, A, B, B]: test_stock_defect_before_5_20")
    options = {"max_new_tokens": 6, "suppress_tokens": [IMAGE], **MODES[mode]}
    with tokenprune.apply(llava, method="zoo-exact", keep=5, positions=positions):
        torch.manual_seed(0)
        cached = llava.generate(**inputs, **options)
        torch.manual_seed(0)
        uncached = llava.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached, uncached)
    n = options.get("num_return_sequences", 1)
    assert torch.equal(cached[:, : inputs["input_ids"].shape[1]], inputs["input_ids"].repeat_interleave(n, 0))


@pytest.mark.skipif(not EXPANDS_WRONGLY, reason="mended in transformers 5.20")
def test_stock_defect_before_5_20():
    """Stock code alone: with two images in a row, each returned sequence should see the same two images."""
    model = tiny_models.llava()
    inputs = llava_inputs((2, "I", 4, "I", 3))
    plain = model(**inputs).logits[:, -1]
    out = model.generate(
        **inputs, max_new_tokens=1, do_sample=True, num_return_sequences=2, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert (out.logits[0] - plain).abs().max() > 0.1


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": False, "num_beams": 3}])
def test_a_padded_batch_equals_each_row_alone(llava, inputs, positions, options):
    if EXPANDS_WRONGLY and "num_beams" in options:
        pytest.xfail("transformers before 5.20 repeats [A, B] as [A, A, B, B]: test_stock_defect_before_5_20")
    width = inputs["input_ids"].shape[1]
    with tokenprune.apply(llava, method="zoo-exact", keep=5, positions=positions):
        together = llava.generate(**inputs, max_new_tokens=6, **options)
        for row in range(3):
            one = cut_row(inputs, row)
            alone = llava.generate(**one, max_new_tokens=6, **options)[0, one["input_ids"].shape[1] :]
            shared = together[row, width : width + len(alone)]
            assert shared.tolist()[: len(alone)] == alone.tolist()[: len(shared)]


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_static_cache_equals_dynamic(llava, inputs, positions):
    with tokenprune.apply(llava, method="zoo-exact", keep=5, positions=positions):
        dynamic = llava.generate(**inputs, max_new_tokens=6, do_sample=False)
        static = llava.generate(**inputs, max_new_tokens=6, do_sample=False, cache_implementation="static")
    assert torch.equal(dynamic, static)


def test_a_users_own_static_cache(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=5):
        cache = StaticCache(config=llava_sdpa.config.get_text_config(), max_cache_len=64)
        own = llava_sdpa.generate(**inputs, **{CACHE: cache}, max_new_tokens=6, do_sample=False)
        assert torch.equal(own, llava_sdpa.generate(**inputs, max_new_tokens=6, do_sample=False))
        assert int(cache.get_seq_length()) == own.shape[1] - 1
        assert int(cache.layers[0].cumulative_length) == own.shape[1] - 1 - 11


def test_a_users_own_dynamic_cache_and_its_methods(llava_sdpa, inputs):
    with tokenprune.apply(llava_sdpa, method="stride", keep=6):
        cache = DynamicCache(config=llava_sdpa.config.get_text_config())
        out = llava_sdpa(**inputs, **{CACHE: cache}, use_cache=True)
        assert cache_of(out) is cache
        n = inputs["input_ids"].shape[1]
        stored = cache.layers[0].keys.shape[2]
        assert cache.get_seq_length() == n and stored == 22  # row 1: 10 of text, twice 6 of an image
        cache.batch_repeat_interleave(2)
        assert cache.layers[0].valid.shape == (6, stored)
        cache.batch_select_indices(torch.tensor([0, 2]))
        assert cache.layers[0].valid.shape == (2, stored)
        cache.reset()  # up to transformers 5.18 it keeps zeroed slots
        assert cache.get_seq_length() in (0, stored)


def test_a_cache_cannot_be_cropped_into_the_pruned_prompt(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    with tokenprune.apply(llava_sdpa, keep=6):
        cache = cache_of(llava_sdpa(**inputs, use_cache=True))
        more = {"input_ids": torch.tensor([[7, 8, 9]])}
        want = llava_sdpa(**more, **{CACHE: cache}).logits
        cache.crop(-3)
        assert cache.get_seq_length() == inputs["input_ids"].shape[1]
        torch.testing.assert_close(llava_sdpa(**more, **{CACHE: cache}).logits, want)
        after = int(
            (inputs["input_ids"][0] != IMAGE).flip(0).long().cumprod(0).sum()
        )  # text behind the image
        cache.crop(-3 - after)
        last = {"input_ids": torch.cat([inputs["input_ids"][:, -after:], more["input_ids"]], 1)}
        torch.testing.assert_close(llava_sdpa(**last, **{CACHE: cache}).logits[:, after:], want)
        with pytest.raises(tokenprune.UnsupportedCallError, match="crop"):
            cache.crop(-after - 6)  # all that is left of the image


@pytest.mark.parametrize("method", ["zoo-exact", "visionzip"])
def test_prompt_lookup_decoding(llava_sdpa, method):
    inputs = llava_inputs((3, "I", 5))
    inputs["input_ids"][0, -5:] = torch.tensor([7, 8, 9, 7, 8])  # what is looked up is found in the prompt
    with tokenprune.apply(llava_sdpa, method=method, keep=6):
        plain = llava_sdpa.generate(**inputs, max_new_tokens=12, do_sample=False)
        looked = llava_sdpa.generate(**inputs, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(plain, looked)


@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_assisted_decoding(llava_sdpa, method):
    inputs, draft = llava_inputs((3, "I", 5)), tiny_models.llava()
    with torch.no_grad():
        draft.lm_head.weight += 0.05 * torch.randn(draft.lm_head.weight.shape)  # right now and then
    with tokenprune.apply(llava_sdpa, method=method, keep=6):
        plain = llava_sdpa.generate(**inputs, max_new_tokens=12, do_sample=False)
        drafted = llava_sdpa.generate(**inputs, max_new_tokens=12, do_sample=False, assistant_model=draft)
    assert torch.equal(plain, drafted)


SEVEN = {"suppress_tokens": [token for token in range(99) if token != 7], "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("method", "trim"), [("fastv", False), ("fastv", True), ("pyramiddrop", True), ("sparsevlm", False)]
)
@pytest.mark.parametrize("accepted", [True, False])
def test_methods_that_read_the_text_choose_without_the_drafts(llava_sdpa, method, trim, accepted):
    """The first drafts would come with the prompt; if all are accepted, no crop tells that they did."""
    inputs = llava_inputs((3, "I", 5))
    inputs["input_ids"][0, -5:] = 7 if accepted else torch.tensor([7, 8, 9, 7, 8])
    options = {**SEVEN} if accepted else {"max_new_tokens": 8}
    options |= {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with tokenprune.apply(llava_sdpa, method=method, keep=6, trim_early_cache=trim) as handle:
        plain, kept = llava_sdpa.generate(**inputs, **options), handle.last.images[0].kept.tolist()
        looked = llava_sdpa.generate(**inputs, **options, prompt_lookup_num_tokens=3)
        assert handle.last.images[0].kept.tolist() == kept
    assert torch.equal(plain.sequences, looked.sequences)
    got, want = torch.stack(looked.logits), torch.stack(plain.logits)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_text_turn_then_image_turn(llava):
    """The image comes to a cache that holds a padded, unpruned text turn."""
    first, more = llava_inputs((3,), (9,)), llava_inputs((2, "I", 3), (2, "I", 3), seed=7)
    with tokenprune.apply(llava, method="zoo-exact", keep=5):
        out = llava.generate(**first, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([out.sequences, more["input_ids"][:, 1:]], 1)
        ones = torch.ones(2, ids.shape[1] - first["input_ids"].shape[1], dtype=torch.long)
        call = {
            "input_ids": ids,
            "attention_mask": torch.cat([first["attention_mask"], ones], 1),
            "pixel_values": more["pixel_values"],
            "max_new_tokens": 5,
            "do_sample": False,
        }
        assert torch.equal(llava.generate(**call, **{CACHE: cache_of(out)}), llava.generate(**call))


def test_inputs_embeds_with_pixels(llava_sdpa):
    """The caller embeds the prompt himself; placeholders are found by their embedding."""
    inputs = llava_inputs((3, "I", 5))
    embeds = llava_sdpa.get_input_embeddings()(inputs["input_ids"])
    with tokenprune.apply(llava_sdpa, keep=5) as handle:
        want = llava_sdpa(**inputs).logits
        got = llava_sdpa(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], pixel_values=inputs["pixel_values"]
        ).logits
        assert handle.last.n_after == 5
    assert torch.equal(got, want)


def test_chunked_prefill_is_refused_before_the_tower_runs(llava_sdpa):
    inputs, text = llava_inputs((3, "I", 5)), llava_inputs((12,))
    ran = []
    hook = llava_sdpa.model.vision_tower.register_forward_hook(lambda *_: ran.append(1))
    want = llava_sdpa.generate(**text, max_new_tokens=2, do_sample=False)
    try:
        with tokenprune.apply(llava_sdpa, keep=5):
            with pytest.raises(tokenprune.UnsupportedCallError, match="prefill_chunk_size=None"):
                llava_sdpa.generate(**inputs, max_new_tokens=2, do_sample=False, prefill_chunk_size=8)
            out = llava_sdpa.generate(**text, max_new_tokens=2, do_sample=False, prefill_chunk_size=8)
    finally:
        hook.remove()
    assert not ran and torch.equal(out, want)


def test_a_four_dimensional_mask_is_refused(llava_sdpa):
    inputs = llava_inputs((3, "I", 5))
    n = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with (
        tokenprune.apply(llava_sdpa, keep=5),
        pytest.raises(tokenprune.UnsupportedCallError, match="two-dim"),
    ):
        llava_sdpa(**inputs)
