# SPDX-License-Identifier: Apache-2.0
"""The promises on the embedded, trained model, through its own processor."""

import functools

import pytest
import torch
from cache_names import cache_of
from PIL import Image
from reference import decoder_by_hand, llava_by_hand
from tokenprune_embedded import held_out_scenes, load_embedded_model

import tokenprune

METHODS = ["zoo-exact", "zoo-prune", "divprune", "visionzip", "fastv", "sparsevlm", "random", "stride"]
TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}


@functools.cache
def embedded(attention="sdpa"):
    model, processor = load_embedded_model()
    model.set_attn_implementation(attention)
    return model, processor


def prompts(*questions_of_scenes):
    """Inputs for questions about held-out scenes: pairs of scene and number of the question."""
    _, processor = embedded()
    scenes = list(held_out_scenes(1 + max(scene for scene, _ in questions_of_scenes)))
    texts, images = [], []
    for scene, number in questions_of_scenes:
        picture, questions = scenes[scene]
        content = [{"type": "image"}, {"type": "text", "text": questions[number].text}]
        texts.append(
            processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        )
        images.append(Image.fromarray(picture.image))
    return dict(processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt"))


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    return embedded(request.param)[0]


def generated(model, inputs, **options):
    return model.generate(
        **inputs,
        max_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


@pytest.mark.parametrize("method", METHODS)
def test_identity(model, method):
    inputs = prompts((0, 0), (1, 3))
    before = generated(model, inputs)
    with tokenprune.apply(model, method=method, keep=144):
        during = generated(model, inputs)
    with tokenprune.apply(model, method=method, keep=9):
        pruned = generated(model, inputs)
    after = generated(model, inputs)
    for other in (during, after):
        assert torch.equal(before.sequences, other.sequences)
        assert all(torch.equal(a, b) for a, b in zip(before.logits, other.logits, strict=True))
    assert not torch.equal(before.logits[0], pruned.logits[0])


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("method", ["zoo-exact", "divprune"])
def test_exactness_before_the_language_model(model, method, positions):
    inputs = prompts((0, 1))
    chosen = tokenprune.method(method)
    embeds, place, after = by_hand(model, inputs, chosen, 24, positions)
    tokens, want = llava_by_hand.generate(model, embeds, place, after, 2)
    with tokenprune.apply(model, method=chosen, keep=24, positions=positions):
        out = generated(model, inputs)
    got = torch.stack(out.logits, 1)[0]
    torch.testing.assert_close(got[: len(tokens)], want, **TOLERANCE)


def by_hand(model, inputs, method, keep, positions):
    """Kept embeddings, positions and the next position of one row with one image."""
    image_token = model.config.image_token_id
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][
        :, 1:
    ]
    rows = model.model.multi_modal_projector(hidden)[0]
    tokens = tokenprune.VisualTokens(
        rows, {"pre_features": hidden[0], "projector": model.model.multi_modal_projector}
    )
    kept = method.select(tokens, keep).indices
    ids = inputs["input_ids"][0]
    stays = ids != image_token
    stays[(ids == image_token).nonzero().squeeze(1)[kept]] = True
    embeds = model.get_input_embeddings()(ids)
    embeds[ids == image_token] = rows
    original = torch.arange(len(ids))[stays]
    place = original if positions == "original" else torch.arange(len(original))
    return embeds[stays][None], place[None], len(ids) if positions == "original" else len(place)


@pytest.mark.parametrize("method", ["fastv", "sparsevlm"])
def test_exactness_inside_the_language_model(model, method):
    inputs = prompts((1, 0))
    chosen = tokenprune.method(method)
    positions = chosen.positions or "contiguous"
    tokens, want, _ = decoder_by_hand.generate(model, inputs, chosen, 24, positions, 2)
    with tokenprune.apply(model, method=chosen, keep=24):
        got = torch.stack(generated(model, inputs).logits, 1)[0]
    torch.testing.assert_close(got[: len(tokens)], want, **TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_a_padded_batch_answers_as_each_row_alone(model, method):
    asked = [(0, 0), (0, 4), (2, 1)]
    together = prompts(*asked)
    with tokenprune.apply(model, method=method, keep=18) as handle:
        out = generated(model, together)
        kept = [image.kept.tolist() for image in handle.last.images]
        width = together["input_ids"].shape[1]
        assert torch.equal(out.sequences[:, :width], together["input_ids"])
        for row, one in enumerate(asked):
            alone = prompts(one)
            single = generated(model, alone)
            torch.testing.assert_close(out.logits[0][row], single.logits[0][0], **TOLERANCE)
            assert handle.last.images[0].kept.tolist() == kept[row]


@pytest.mark.parametrize("method", METHODS)
def test_generate_in_its_other_modes(method):
    model, _ = embedded("sdpa")
    inputs = prompts((0, 0), (2, 1))
    with tokenprune.apply(model, method=method, keep=18):
        greedy = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        static = model.generate(**inputs, max_new_tokens=5, do_sample=False, cache_implementation="static")
        assert torch.equal(greedy, static)
        beams = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, num_beams=2, num_return_sequences=2
        )
        assert len(beams) == 4
        torch.manual_seed(0)
        first = model.generate(**inputs, max_new_tokens=5, do_sample=True)
        torch.manual_seed(0)
        assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=True), first)


def test_the_saving_is_real(model):
    inputs = prompts((0, 0))
    with tokenprune.apply(model, keep=18) as handle:
        cache = cache_of(model(**inputs, use_cache=True))
        report = handle.last
    length = inputs["input_ids"].shape[1]
    assert {layer.keys.shape[2] for layer in cache.layers} == {length - 126}
    text = model.config.text_config
    slot = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert (report.kv_bytes, report.kv_bytes_unpruned) == ((length - 126) * slot, length * slot)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype):
    model, _ = load_embedded_model()
    model.to(dtype)
    inputs = prompts((0, 0))
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with tokenprune.apply(model, method="zoo-exact", keep=18) as handle:
        model(**inputs)
        scores = handle.last.images[0].scores
    rows = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][
        0, 1:
    ]
    projector = model.model.multi_modal_projector.float()
    tokens = tokenprune.VisualTokens(
        projector(rows.float()), {"pre_features": rows.float(), "projector": projector}
    )
    want = tokenprune.scorer("zoo-exact").score(tokens)
    torch.testing.assert_close(scores, want, rtol=1e-3, atol=0)


def test_text_alone_is_untouched(model):
    _, processor = embedded()
    inputs = dict(processor(text=["USER: what color is the star ? ASSISTANT:"], return_tensors="pt"))
    before = model(**inputs).logits
    with tokenprune.apply(model, keep=9) as handle:
        assert torch.equal(model(**inputs).logits, before)
        assert handle.last is None
