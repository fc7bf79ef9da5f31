# SPDX-License-Identifier: Apache-2.0
"""The promises on LLaVA, LLaVA-NeXT and Qwen2.5-VL x every method x every way to call them."""

import copy

import pytest
import tiny_models
import torch
from cache_names import CACHE, cache_of
from model_cases import MODELS, ROWS, SECOND, Case
from packaging.version import Version
from reference.kept_rows import entered
from transformers import __version__ as transformers_version

import tokenprune

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 7
REPEATS_WRONGLY = Version(transformers_version) < Version("5.20")  # see test_generate_unchanged
PLACES_WRONGLY = Version(transformers_version) < Version("5.23")
SUPPRESSED = [tiny_models.IMAGE, tiny_models.VIDEO, 92, 93, tiny_models.EOS]


def methods(name):
    """Methods this model can give the signals for."""
    case, able = Case(name), []
    for method in tokenprune.list_methods():
        try:
            tokenprune.apply(case.model, method=method, keep=KEEP).remove()
        except tokenprune.IncompatibleError:
            continue
        able.append((name, method))
    return able


PAIRS = [pair for name in MODELS for pair in methods(name)]


def generated(model, inputs, **options):
    out = model.generate(
        **inputs[0],
        max_new_tokens=4,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        suppress_tokens=SUPPRESSED,
        **options,
    )
    return out, torch.stack(out.logits, 1)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_a_padded_batch_equals_each_row_alone(name, method):
    case = Case(name)
    batch = case.batch()
    with tokenprune.apply(case.model, method=method, keep=KEEP) as handle:
        together, logits = generated(case.model, batch)
        images = handle.last.images
        alone_images = []
        for row in range(3):
            alone, want = generated(case.model, case.alone(batch, row))
            torch.testing.assert_close(logits[row], want[0], **TOLERANCE)
            alone_images += handle.last.images if row < 2 else ()
    width = batch[0]["input_ids"].shape[1]
    assert torch.equal(together.sequences[:, :width], batch[0]["input_ids"])  # prompt ids intact
    assert len(images) == 3
    for one, other in zip(images, alone_images, strict=True):
        assert (one.n_before, one.n_after) == (other.n_before, other.n_after)
        assert one.kept is None or one.kept.tolist() == other.kept.tolist()
        assert 1 <= one.n_after < one.n_before
    plain, _ = generated(case.model, batch)
    assert not torch.equal(plain.logits[0], together.logits[0])


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_keep_all_and_removal_are_bit_identical(name, method):
    case = Case(name)
    batch = case.batch()
    before = [case.model(**batch[0]).logits, generated(case.model, batch)[1]]
    with tokenprune.apply(case.model, method=method, keep=1000):
        during = [case.model(**batch[0]).logits, generated(case.model, batch)[1]]
    after = [case.model(**batch[0]).logits, generated(case.model, batch)[1]]
    for other in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_static_cache_beams_and_sampling(name, method):
    case = Case(name)
    batch = case.batch()
    with tokenprune.apply(case.model, method=method, keep=KEEP):
        dynamic, _ = generated(case.model, batch)
        static, _ = generated(case.model, batch, cache_implementation="static")
        assert torch.equal(dynamic.sequences, static.sequences)
        options = {"max_new_tokens": 4, "suppress_tokens": SUPPRESSED}
        sampled = []
        for more in ({}, {"cache_implementation": "static"}):
            torch.manual_seed(0)
            sampled.append(case.model.generate(**batch[0], do_sample=True, **options, **more))
        assert torch.equal(*sampled)
        if REPEATS_WRONGLY:
            return
        surest = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
        several = case.model.generate(**batch[0], **surest, **options)
        assert torch.equal(several, dynamic.sequences.repeat_interleave(2, 0))
        beams = case.model.generate(**batch[0], do_sample=False, num_beams=3, **options)
        for row in (0, 1):
            one = case.alone(batch, row)[0]
            alone = case.model.generate(**one, do_sample=False, num_beams=3, **options)
            assert beams[row, -4:].tolist() == alone[0, -4:].tolist()


SECOND_TURNS = [
    (name, method, (4,) if with_text else SECOND[name])
    for name, method in PAIRS
    for with_text in (True, False)
    if with_text or name != "qwen"  # see test_stock_qwen_takes_no_new_image_on_a_cache
]


@pytest.mark.parametrize(("name", "method", "second"), SECOND_TURNS)
def test_a_second_turn_on_the_same_cache(name, method, second):
    """With text, or with a new image; in a padded batch as for each row alone."""
    case = Case(name)
    pictures = ROWS[name][1][1:]  # two images, or an image and a video
    first, more = case.inputs((3, *pictures), (5, *pictures)), case.inputs(second, second, seed=5)

    def two_turns(one, two):
        out, _ = generated(case.model, one)
        ids = torch.cat([out.sequences, two[0]["input_ids"][:, 1:]], 1)
        ones = torch.ones(len(ids), ids.shape[1] - one[0]["input_ids"].shape[1], dtype=torch.long)
        inputs = {k: v for k, v in two[0].items() if k in ("pixel_values", "image_sizes")}
        inputs |= {"input_ids": ids, "attention_mask": torch.cat([one[0]["attention_mask"], ones], 1)}
        return generated(case.model, (inputs, None), **{CACHE: cache_of(out)})

    with tokenprune.apply(case.model, method=method, keep=KEEP):
        out, together = two_turns(first, more)
        for row in range(2):
            _, alone = two_turns(case.alone(first, row), case.alone(more, row))
            torch.testing.assert_close(together[row, :1], alone[0, :1], **TOLERANCE)
    assert cache_of(out).get_seq_length() == out.sequences.shape[1] - 1


def test_stock_qwen_takes_no_new_image_on_a_cache():
    """Stock code alone: generate() needs every image for positions and only the new ones for their rows.

    It raises, or (new images only; seen in 5.17 and 5.20) places them wrongly.
    """
    case = Case("qwen")
    first, more = case.single()[0], case.inputs(SECOND["qwen"], seed=5)[0]
    options = {"max_new_tokens": 3, "suppress_tokens": SUPPRESSED}
    out = case.model.generate(**first, **options, return_dict_in_generate=True)
    ids = torch.cat([out.sequences, more["input_ids"][:, 1:]], 1)
    both = {k: torch.cat([first[k], more[k]]) for k in ("pixel_values", "image_grid_thw")}
    new = {k: more[k] for k in both}
    call = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == tiny_models.IMAGE).int(),
        **options,
    }
    want = case.model.generate(**call, **both)
    for images in (both, new, {**new, "image_grid_thw": both["image_grid_thw"]}):
        try:
            got = case.model.generate(**call, **{CACHE: copy.deepcopy(cache_of(out))}, **images)
        except (ValueError, RuntimeError, IndexError, StopIteration):
            continue
        assert PLACES_WRONGLY and not torch.equal(got, want)


@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "stride"])
def test_qwen_takes_a_new_image_on_a_cache_by_plain_calls(method):
    """With the positions of the whole conversation; as if it had come at once."""
    case = Case("qwen")
    whole = case.inputs((3, ("I", 4, 6), 5, *SECOND["qwen"]))[0]
    places, ids = entered(case.model, whole)["position_ids"], whole["input_ids"]
    at, patches = int((ids[0] == 92).nonzero()[1]), int(whole["image_grid_thw"][0].prod())
    with tokenprune.apply(case.model, method=method, keep=KEEP) as handle:
        want, kept = case.model(**whole).logits[:, at:], [i.kept.tolist() for i in handle.last.images]
        cache, turns = None, ((slice(at), slice(patches)), (slice(at, None), slice(patches, None)))
        for number, (tokens, rows) in enumerate(turns):
            out = case.model(
                input_ids=ids[:, tokens],
                position_ids=places[..., tokens],
                attention_mask=torch.ones_like(ids[:, : tokens.stop]),
                pixel_values=whole["pixel_values"][rows],
                image_grid_thw=whole["image_grid_thw"][number : number + 1],
                **{CACHE: cache},
                use_cache=True,
            )
            cache = cache_of(out)
            assert [i.kept.tolist() for i in handle.last.images] == kept[number : number + 1]
    torch.testing.assert_close(out.logits, want, **TOLERANCE)
    assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_loss(name, method):
    """Two images, or an image and a video; labels on the last text tokens: the loss of the logits."""
    case = Case(name)
    inputs = case.alone(case.batch(), 1)[0]
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4:] = inputs["input_ids"][:, -4:]
    with tokenprune.apply(case.model, method=method, keep=KEEP), torch.enable_grad():
        out = case.model(**inputs, labels=labels, use_cache=False)
        out.loss.backward()
    want = torch.nn.functional.cross_entropy(out.logits[0, -5:-1].detach().float(), labels[0, -4:])
    torch.testing.assert_close(out.loss.detach(), want, **TOLERANCE)
    gradient = case.model.model.language_model.layers[0].self_attn.q_proj.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    case.model.zero_grad()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["zoo-exact", "divprune", "stride", "fastv", "dart"])
def test_original_positions_equal_a_full_run_that_hides_the_dropped(name, method, attention):
    """Independent of every hook of ours but the choice: hide the dropped tokens from the cut on."""
    case = Case(name, attention)
    inputs = case.single()[0]
    with tokenprune.apply(case.model, method=method, keep=KEEP, positions="original") as handle:
        got = case.model(**inputs).logits[0, -1]
        kept, cuts = handle.last.images[0].kept, handle.last.images[0].cuts
    placeholders = (inputs["input_ids"][0] == tiny_models.IMAGE).nonzero().squeeze(1)
    dropped = [int(slot) for i, slot in enumerate(placeholders) if i not in kept.tolist()]
    n = inputs["input_ids"].shape[1]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    mask[:, dropped] = False
    mask[dropped, dropped] = True
    if attention == "eager":
        mask = torch.zeros(n, n).masked_fill(~mask, torch.finfo(torch.float32).min)

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask[None, None]}

    layers = case.model.model.language_model.layers[next(iter(cuts)) :]
    hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in layers]
    try:
        want = case.model(**inputs).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(got, want, **TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_slots_fall_by_exactly_the_dropped_tokens(name):
    case = Case(name)
    inputs = case.single()[0]
    with tokenprune.apply(case.model, keep=KEEP) as handle:
        cache = cache_of(case.model(**inputs, use_cache=True))
        report = handle.last
    stored = inputs["input_ids"].shape[1] - report.n_before + report.n_after
    assert {layer.keys.shape[2] for layer in cache.layers} == {stored}
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]
