# SPDX-License-Identifier: Apache-2.0
"""Which attention masks a pruned model takes; masks.py by hand, and refusals before the tower runs."""

import pytest
import tiny_families
import tiny_models
import torch
from cache_names import CACHE, cache_of
from tokenprune_adapters.transformers.masks import SeenTokens, all_seen
from torch.nn.attention.flex_attention import create_block_mask
from transformers import DynamicCache

import tokenprune


def block_mask(n):
    return create_block_mask(lambda b, h, q, k: q >= k, 1, None, n, n, device="cpu")


UNKNOWN = {
    "3-D": (lambda n: torch.ones(1, n, n), "tensor of 3 dimensions"),
    "4-D": (lambda n: torch.ones(1, 1, n, n, dtype=torch.bool).tril(), "tensor of 4 dimensions"),
    "1-D": (lambda n: torch.ones(n), "tensor of 1 dimensions"),
    "BlockMask": (block_mask, "BlockMask"),
    "object": (lambda n: object(), "object"),
    "list": (lambda n: [[1] * n], "list"),
}


@pytest.fixture
def tower_calls(llava_sdpa):
    """The calls of the tower so far."""
    calls = []
    hook = llava_sdpa.model.vision_tower.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_masks_with_an_image_are_refused_before_the_tower_runs(llava_sdpa, tower_calls, method, kind):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    make, what = UNKNOWN[kind]
    mask = make(inputs["input_ids"].shape[1])
    with tokenprune.apply(llava_sdpa, method=method, keep=5):
        tower_calls.clear()
        with pytest.raises(tokenprune.UnsupportedCallError, match=f"this one is a {what}"):
            llava_sdpa(**{**inputs, "attention_mask": mask})
        if kind == "4-D":
            with pytest.raises(tokenprune.UnsupportedCallError, match="two-dimensional"):
                llava_sdpa(**{**inputs, "attention_mask": mask}, **{CACHE: DynamicCache()})
    assert not tower_calls


@pytest.mark.parametrize("kind", ["3-D", "BlockMask", "object"])
@pytest.mark.parametrize("method", ["divprune", "pyramiddrop"])
def test_and_on_a_pruned_cache(llava_sdpa, method, kind):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    mask = UNKNOWN[kind][0](inputs["input_ids"].shape[1] + 2)
    with tokenprune.apply(llava_sdpa, method=method, keep=5):
        cache = cache_of(llava_sdpa(**inputs, use_cache=True))
        with pytest.raises(tokenprune.UnsupportedCallError, match="two-dimensional"):
            llava_sdpa(input_ids=torch.tensor([[5, 6]]), attention_mask=mask, **{CACHE: cache})


@pytest.mark.parametrize("name", ["internvl", "qwen2_vl"])
def test_on_other_families(name):
    model, inputs = tiny_families.model(name), tiny_families.inputs(name, (3, "I", 5))
    mask = torch.ones(1, *[inputs["input_ids"].shape[1]] * 2)
    with tokenprune.apply(model, method="divprune", keep=5):
        with pytest.raises(tokenprune.UnsupportedCallError, match="3 dimensions"):
            model(**{**inputs, "attention_mask": mask})


def test_text_alone_takes_any_mask_as_before(llava_sdpa):
    inputs = tiny_models.llava_inputs((6,))
    n = inputs["input_ids"].shape[1]
    call = {**inputs, "attention_mask": torch.ones(1, 1, n, n, dtype=torch.bool).tril()}
    want = llava_sdpa(**call).logits
    with tokenprune.apply(llava_sdpa, method="divprune", keep=5):
        assert torch.equal(llava_sdpa(**call).logits, want)


@pytest.mark.parametrize("method", ["zoo-exact", "fastv"])
def test_a_mask_without_the_stored_tokens_is_refused(llava_sdpa, method):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    seen, more = inputs["input_ids"].shape[1], torch.tensor([[5, 6]])
    with tokenprune.apply(llava_sdpa, method=method, keep=5):
        for columns in (2, seen - 9):  # of the new tokens alone; of what is stored, and the new ones
            cache = cache_of(llava_sdpa(**inputs, use_cache=True))
            words = f"has {columns} columns, and the sequence has {seen + 2} tokens by now"
            with pytest.raises(tokenprune.UnsupportedCallError, match=words):
                llava_sdpa(input_ids=more, attention_mask=torch.ones(1, columns), **{CACHE: cache})


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
@pytest.mark.parametrize("method", ["zoo-exact", "pyramiddrop"])
def test_a_mask_of_any_type(llava, method, dtype):
    inputs = tiny_models.llava_inputs((3, "I", 5), (2, "I", 9))
    with tokenprune.apply(llava, method=method, keep=5):
        want = llava(**inputs).logits
        got = llava(**{**inputs, "attention_mask": inputs["attention_mask"].to(dtype)}).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[real], want[real])


def test_a_flat_mask_counts_from_the_first_token():
    seen = SeenTokens.read(torch.tensor([[0, 1, 1, 0, 1]]), n_dropped=3)
    assert seen.start == 0
    assert seen.slice(1, 3).tolist() == [[True, True, False]]
    assert seen.of(torch.tensor([[4, 3, 0, 7]])).tolist() == [[True, False, False, True]]  # 7: not said


def test_a_made_mask_counts_from_the_first_stored_token():
    """Four dimensions, of bool or of what is added: row 1 of 2 says it, for 3 dropped tokens in front."""
    allowed = torch.tensor([[[[True, True, False], [False, True, True]]]])
    added = torch.zeros(1, 1, 2, 3).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for mask in (allowed, added, {"full_attention": allowed}):
        seen = SeenTokens.read(mask, n_dropped=3)
        assert (seen.start, seen.flat.tolist()) == (3, [[False, True, True]])
        assert seen.of(torch.tensor([[0, 3, 4]])).tolist() == [[True, False, True]]


def test_no_mask_says_nothing():
    assert SeenTokens.read(None, 0) is None
    assert SeenTokens.read({"sliding_attention": torch.ones(1, 1, 2, 2)}, 0) is None
    assert all_seen(torch.tensor([[True, True]])) is None
    assert all_seen(torch.tensor([[True, False]])).tolist() == [[True, False]]


def test_a_flat_mask_that_ends_early_says_what_it_should_cover():
    with pytest.raises(tokenprune.UnsupportedCallError, match="has 5 columns, and the sequence has 7 tokens"):
        SeenTokens.read(torch.ones(1, 5), 0).slice(4, 3)
