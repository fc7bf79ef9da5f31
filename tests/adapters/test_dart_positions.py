# SPDX-License-Identifier: Apache-2.0
"""DART's pivots depend on positions and on rounding, as docs/methods/dart.md says."""

import pytest
import tiny_models
import torch
from model_cases import Case
from reference.decoder_by_hand import explicit_attention
from reference.kept_rows import entered

import tokenprune

KEEP, PADDING = 7, 5


def padded(inputs):
    """The same behind PADDING tokens of padding."""
    changed = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {
        name: torch.nn.functional.pad(value, (PADDING, 0)) if name in changed else value
        for name, value in inputs.items()
    }


def of_image(model, call):
    """What DART reports of the image of a call."""
    with tokenprune.apply(model, method="dart", keep=KEEP) as handle:
        call()
        return handle.last.images[0]


def key_norms(model, inputs, start):
    """L1 norms of the image's keys in the first layer, the row beginning at a position, by hand."""
    language, rows = model.model.language_model, entered(model, inputs)["inputs_embeds"]
    places = start + torch.arange(rows.shape[1])[None]
    keys = explicit_attention(language.layers[0], rows, *language.rotary_emb(rows, places))[1]
    return keys[:, inputs["input_ids"][0] == tiny_models.IMAGE].abs().sum((0, 2))


def test_generate_numbers_positions_from_the_first_real_token(llava):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    plain = of_image(llava, lambda: llava.generate(**inputs, max_new_tokens=1))
    behind = of_image(llava, lambda: llava.generate(**padded(inputs), max_new_tokens=1))
    assert plain.kept.tolist() == behind.kept.tolist()
    torch.testing.assert_close(plain.scores, behind.scores)
    torch.testing.assert_close(plain.scores, key_norms(llava, inputs, 0))


def test_a_plain_call_lets_the_model_count_padding_and_rotated_keys_change_their_size(llava):
    """Why a left-padded batch may get other pivots, and how it gets the same."""
    inputs = tiny_models.llava_inputs((3, "I", 5))
    plain = of_image(llava, lambda: llava(**inputs))
    behind = of_image(llava, lambda: llava(**padded(inputs)))
    torch.testing.assert_close(behind.scores, key_norms(llava, inputs, PADDING))
    assert not torch.allclose(plain.scores, behind.scores, rtol=1e-3)
    positions = (padded(inputs)["attention_mask"].cumsum(1) - 1).clamp(min=0)
    given = of_image(llava, lambda: llava(**padded(inputs), position_ids=positions))
    torch.testing.assert_close(plain.scores, given.scores)
    assert plain.kept.tolist() == given.kept.tolist()


def test_the_unpruned_model_does_not_see_the_difference(llava):
    inputs = tiny_models.llava_inputs((3, "I", 5))
    plain, behind = llava(**inputs).logits, llava(**padded(inputs)).logits
    torch.testing.assert_close(plain, behind[:, PADDING:], atol=1e-4, rtol=1e-4)


def test_on_three_axes_the_model_leaves_padding_out():
    case = Case("qwen")
    inputs = case.single()[0]
    plain = of_image(case.model, lambda: case.model(**inputs))
    behind = of_image(case.model, lambda: case.model(**padded(inputs)))
    assert plain.kept.tolist() == behind.kept.tolist()
    torch.testing.assert_close(plain.scores, behind.scores)


def qwen_under(attention, dtype, seed):
    """Scores and what is kept of an image, under an attention implementation."""
    model = tiny_models.qwen(attention).to(dtype)
    inputs = tiny_models.qwen_inputs((3, ("I", 4, 6), 5), seed=seed)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return of_image(model, lambda: model(**inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_implementations_differ_by_rounding_alone(dtype):
    """Pivots nearly alike may swap in bfloat16; in float32 the same tokens stay."""
    for seed in range(4):
        eager, sdpa = (qwen_under(attention, dtype, seed) for attention in ("eager", "sdpa"))
        apart = (eager.scores - sdpa.scores).abs() / eager.scores
        assert float(apart.max()) < 16 * torch.finfo(dtype).eps
        if dtype == torch.float32:
            assert eager.kept.tolist() == sdpa.kept.tolist()
