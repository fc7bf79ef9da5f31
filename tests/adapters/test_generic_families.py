# SPDX-License-Identifier: Apache-2.0
"""The promises on the families beyond the main three: whole on Qwen3-VL, InternVL and Gemma 3."""

import pytest
import tiny_families as families
import torch
from packaging.version import Version
from tiny_families import CLASSES, IMAGE, PAD, VIDEO, cut_row
from transformers import __version__ as transformers_version

import tokenprune

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 3
WHOLE = ("qwen3_vl", "internvl", "gemma3")
DECODER = tuple(name for name in CLASSES if name not in ("gemma3", "paligemma"))
QWENS = ("qwen2_vl", "qwen3_vl")
REPEATS_WRONGLY = Version(transformers_version) < Version("5.20")  # see test_generate_unchanged
OPTIONS = {
    "max_new_tokens": 5,
    "do_sample": False,
    "suppress_tokens": [IMAGE, VIDEO, 92, 93, PAD],
    "output_logits": True,
    "return_dict_in_generate": True,
}


def able(name):
    """Calls of `apply` this family can be given: every method on the whole ones, else one of a kind."""
    model, calls = families.model(name), []
    some = tokenprune.list_methods() if name in WHOLE else ("divprune", "zoo-exact", "sparsevlm")
    for method in some:
        call = {"method": method, "keep": KEEP}
        if name == "qwen3_vl" and tokenprune.method(method).stage == "decoder":
            call = {"method": method, "schedule": {2: 9, 3: KEEP}}
        try:
            tokenprune.apply(model, **call).remove()
        except tokenprune.IncompatibleError:
            continue
        calls.append((name, call))
    return calls


CALLS = [one for name in CLASSES for one in able(name)]
ids = [f"{name}-{call['method']}" for name, call in CALLS]


def generated(model, inputs, **options):
    out = model.generate(**inputs, **{**OPTIONS, **options})
    return out, torch.stack(out.logits, 1)


@pytest.mark.parametrize(("name", "call"), CALLS, ids=ids)
def test_a_padded_batch_equals_each_row_alone(name, call):
    model, inputs = families.model(name), families.inputs(name)
    with tokenprune.apply(model, **call) as handle:
        together, logits = generated(model, inputs)
        images = handle.last.images
        static, _ = generated(model, inputs, cache_implementation="static")
        alone_images = []
        for row in range(3):
            alone, want = generated(model, cut_row(name, inputs, row))
            torch.testing.assert_close(logits[row], want[0], **TOLERANCE)
            alone_images += handle.last.images if row < 2 else ()
    assert torch.equal(static.sequences, together.sequences)
    assert torch.equal(together.sequences[:, : -OPTIONS["max_new_tokens"]], inputs["input_ids"])
    assert [(i.row, i.n_before, i.n_after) for i in images] == [
        (row, families.tokens_of(name), KEEP) for row in (0, 1, 1)
    ]
    for one, other in zip(images, alone_images, strict=True):
        assert one.kept.tolist() == other.kept.tolist()
    plain, _ = generated(model, inputs)
    assert not torch.equal(plain.logits[0], together.logits[0])


@pytest.mark.parametrize(("name", "call"), CALLS, ids=ids)
def test_keep_all_and_removal_are_bit_identical(name, call):
    model, inputs = families.model(name), families.inputs(name)
    call = {"method": call["method"], "keep": 1000}
    if name == "qwen3_vl" and tokenprune.method(call["method"]).stage == "decoder":
        call["layer"] = [2, 3] if call["method"] == "sparsevlm" else 2
    before = [model(**inputs).logits, generated(model, inputs)[1]]
    with tokenprune.apply(model, **call):
        during = [model(**inputs).logits, generated(model, inputs)[1]]
    after = [model(**inputs).logits, generated(model, inputs)[1]]
    for other in (during, after):
        assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))


def entered(model, inputs):
    """What the language model is handed in a stock run."""
    seen = {}
    language = getattr(model.model, "text_model", None) or model.model.language_model
    hook = language.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    try:
        model(**inputs)
    finally:
        hook.remove()
    return seen


def kept_slots(inputs, kept):
    """Slots of a row that stay: all text, and the kept ones of its one image."""
    placeholders = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    keep = inputs["input_ids"][0] != IMAGE
    keep[placeholders[kept]] = True
    return keep


def stock_logits(name, model, inputs, keep, tokens):
    """Logits of stock code fed the kept rows from the start, and then tokens, without a cache."""
    seen = entered(model, inputs)
    table = model.get_input_embeddings()
    rows = torch.cat([seen["inputs_embeds"][:, keep], table(tokens[None])], 1)
    n = rows.shape[1]
    if name not in QWENS:
        kinds = {}
        if "token_type_ids" in inputs:  # an answer sees only what came before
            answer = torch.full((1, len(tokens)), 1 if name == "paligemma" else 0)
            kinds["token_type_ids"] = torch.cat([inputs["token_type_ids"][:, keep], answer], 1)
        return model(inputs_embeds=rows, attention_mask=torch.ones(1, n).long(), **kinds).logits[0]
    places = seen["position_ids"][-3:]
    later = places.max() + 1 + torch.arange(len(tokens)).expand(3, 1, -1)
    places = torch.cat([torch.arange(n).expand(1, 1, -1), torch.cat([places[..., keep], later], 2)])
    more = {}
    if name == "qwen3_vl":
        is_image = inputs["input_ids"][0] == IMAGE
        more["visual_pos_masks"] = torch.cat([is_image[keep], torch.zeros(len(tokens)).bool()])[None]
        more["deepstack_visual_embeds"] = [each[keep[is_image]] for each in seen["deepstack_visual_embeds"]]
    out = model.model.language_model(inputs_embeds=rows, position_ids=places, **more)
    return model.lm_head(out.last_hidden_state)[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CLASSES)
def test_prefill_and_decode_equal_stock_code_fed_the_kept_rows(name, attention):
    """Positions closed up where they are a line; sliding windows and blocks as stock code makes them."""
    if attention == "eager" and name not in WHOLE:
        pytest.skip("eager attention is checked on the whole families")
    model, inputs = families.model(name, attention), families.inputs(name, (3, "I", 5))
    with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
        out, logits = generated(model, inputs, max_new_tokens=14)
        got = model(**inputs).logits[0]
    keep = kept_slots(inputs, handle.last.images[0].kept)
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    want = stock_logits(name, model, inputs, keep, tokens)
    n = int(keep.sum())
    torch.testing.assert_close(got[keep], want[:n], **TOLERANCE)
    torch.testing.assert_close(logits[0], want[n - 1 : -1], **TOLERANCE)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", DECODER)
def test_original_positions_equal_a_full_run_that_hides_the_dropped(name, layer):
    """From the cut on, in prefill and decoding; before layer 0 at the projector stage."""
    model, inputs = families.model(name), families.inputs(name, (3, "I", 5))
    call = {"method": "divprune", "positions": "original"} if layer == 0 else {"method": "fastv", "layer": 2}
    with tokenprune.apply(model, keep=KEEP, **call) as handle:
        out, logits = generated(model, inputs)
    keep = kept_slots(inputs, handle.last.images[0].kept)
    tokens, n = out.sequences[0, len(keep) :], len(keep) + OPTIONS["max_new_tokens"]
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    gone = (~keep).nonzero().squeeze(1)
    mask[:, gone] = False
    mask[gone, gone] = True  # their own rows may do as they like, nobody sees them

    def hide(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask[None, None]}

    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens[None]], 1)}
    for key in ("attention_mask", "mm_token_type_ids"):
        if key in whole:
            whole[key] = torch.nn.functional.pad(whole[key], (0, len(tokens)), value=key == "attention_mask")
    language = getattr(model.model, "text_model", None) or model.model.language_model
    hooks = [one.register_forward_pre_hook(hide, with_kwargs=True) for one in language.layers[layer:]]
    try:
        want = model(**whole).logits[0, len(keep) - 1 : -1]
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(logits[0], want, **TOLERANCE)


@pytest.mark.parametrize("name", CLASSES)
def test_beams_equal_those_of_the_row_alone(name):
    if REPEATS_WRONGLY:
        pytest.skip("mended in transformers 5.20")
    model, inputs = families.model(name), families.inputs(name)
    options = {"num_beams": 3, "output_logits": False}
    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = model.generate(**inputs, **{**OPTIONS, **options}).sequences[:, -5:]
        for row in range(2):
            alone = model.generate(**cut_row(name, inputs, row), **{**OPTIONS, **options}).sequences
            assert together[row].tolist() == alone[0, -5:].tolist()


@pytest.mark.parametrize("name", ["internvl", "gemma3", "mistral3"])
def test_a_second_turn_with_a_new_image_on_the_same_cache(name):
    model = families.model(name)
    first, more = (
        families.inputs(name, (5, "I", 5), (3, "I", 2)),
        families.inputs(name, (2, "I", 3), (2, "I", 3)),
    )

    def two_turns(one, two):
        out, _ = generated(model, one)
        ids = torch.cat([out.sequences, two["input_ids"][:, 1:]], 1)
        later = {key: two[key] for key in ("pixel_values", "image_sizes") if key in two}
        added = ids.shape[1] - one["input_ids"].shape[1]
        later["attention_mask"] = torch.nn.functional.pad(one["attention_mask"], (0, added), value=1)
        if name == "gemma3":
            later["token_type_ids"] = (ids == IMAGE).long()
        return generated(model, {"input_ids": ids, **later}, past_key_values=out.past_key_values)[1]

    with tokenprune.apply(model, method="divprune", keep=KEEP):
        together = two_turns(first, more)
        for row in range(2):
            alone = two_turns(cut_row(name, first, row), cut_row(name, more, row))
            torch.testing.assert_close(together[row, :1], alone[0, :1], **TOLERANCE)


class Look(tokenprune.Scorer):
    """Keeps what it was shown."""

    name = "look"

    def __init__(self, *needs):
        self.asked, self.seen = frozenset(needs), []

    @property
    def needs(self):
        return self.asked

    def score(self, tokens):
        self.seen.append((tokens, {name: tokens.signal(name) for name in self.asked}))
        return torch.zeros(len(tokens))


ALIGNED = ("qwen2_vl", "qwen3_vl", "internvl", "gemma3", "smolvlm", "idefics3", "mistral3", "paligemma")


@pytest.mark.parametrize("name", ALIGNED)
def test_projector_rows_are_those_of_the_tokens_and_the_closed_form_is_the_projector(name):
    model, inputs, look = families.model(name), families.inputs(name), Look("pre_features", "projector")
    with tokenprune.apply(model, scorer=look, keep=KEEP):
        model(**inputs)
    assert len(look.seen) == 3
    for tokens, signals in look.seen:
        rows, projector = signals["pre_features"], signals["projector"]
        torch.testing.assert_close(projector(rows), tokens.features, **TOLERANCE)
        form = projector.linear_form()
        torch.testing.assert_close(form(rows.float()), tokens.features, **TOLERANCE)
        score = tokenprune.scorer("zoo-exact").score(tokens)
        for i in (0, len(tokens) - 1):
            jacobian = torch.autograd.functional.jacobian(projector, rows[i : i + 1].float())
            want = jacobian.norm() / rows[i].numel() ** 0.5
            torch.testing.assert_close(score[i], want, rtol=2e-3, atol=1e-4)


def test_layouts():
    def layout(name):
        model = families.model(name)
        with tokenprune.apply(model, method="stride", keep=KEEP) as handle:
            model(**families.inputs(name, (3, "I", 5)))
            return handle.last.images[0].layout

    assert layout("internvl").grid == (1, 4, 4)
    assert layout("smolvlm").grid == (1, 2, 2)
    assert layout("qwen3_vl").grid == (1, 4, 6)
    newlines = layout("llava_onevision").newlines.nonzero().squeeze(1).tolist()
    assert newlines == [24, 33, 42, 51]  # 16 tokens of the base view, then rows of 8 and a newline


def video_row(name, frames):
    """A row with one video of frames of 2 x 4 tokens; Qwen3-VL's prompts have each frame on its own."""
    tokens = [VIDEO] * 8
    if name == "qwen2_vl":
        return [1, 5, 92, *tokens * frames, 93, 7, 8, 9]
    return [1, 5, *(t for i in range(frames) for t in (10 + i, 92, *tokens, 93)), 7, 8, 9]


@pytest.mark.parametrize("name", QWENS)
def test_videos_and_an_image_beside_one(name):
    model, draw = families.model(name), torch.Generator().manual_seed(3)
    rows = [video_row(name, 3), [*video_row(name, 2), 92, *[IMAGE] * 24, 93, 4, 5]]
    inputs = families.batch(rows)
    grids = torch.tensor([[3, 4, 8], [2, 4, 8]])
    pixels = torch.randn(int(grids.prod(1).sum()), 96, generator=draw)
    image = {
        "pixel_values": torch.randn(96, 96, generator=draw),
        "image_grid_thw": torch.tensor([[1, 8, 12]]),
    }
    inputs |= {"pixel_values_videos": pixels, "video_grid_thw": grids, **image}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE) + 2 * (inputs["input_ids"] == VIDEO).int()
    with tokenprune.apply(model, method="zoo-exact", keep=7) as handle:
        _, logits = generated(model, inputs)
        assert sorted((i.row, i.n_before, i.n_after, i.layout.grid) for i in handle.last.images) == [
            (0, 24, 7, (3, 2, 4)),
            (1, 16, 7, (2, 2, 4)),
            (1, 24, 7, (1, 4, 6)),
        ]
        for row, (start, stop) in enumerate(((0, 96), (96, 160))):
            alone = cut_row(name, inputs, row) | {
                "pixel_values_videos": pixels[start:stop],
                "video_grid_thw": grids[row : row + 1],
            }
            torch.testing.assert_close(logits[row], generated(model, alone)[1][0], **TOLERANCE)


def test_what_a_family_cannot_do_is_refused_with_the_reason():
    refused = [
        ("gemma3", {"method": "fastv"}, "see each other"),
        ("paligemma", {"method": "sparsevlm"}, "see each other"),
        ("gemma3", {"method": "stride", "positions": "original"}, "it allows: contiguous"),
        ("qwen3_vl", {"method": "stride", "positions": "contiguous"}, "it allows: original"),
        ("qwen3_vl", {"method": "fastv"}, "from 2 on"),
        ("qwen3_vl", {"method": "pool"}, "a new row has none"),
        ("llava_onevision", {"method": "zoo-exact"}, "needs the signal pre_features"),
        ("aya_vision", {"method": "zoo-prune"}, "needs the signal pre_features"),
        ("internvl", {"method": "visionzip"}, "cls_attention"),
    ]
    for name, call, words in refused:
        with pytest.raises(tokenprune.IncompatibleError, match=words):
            tokenprune.apply(families.model(name), keep=KEEP, **call)
        assert not tokenprune.is_pruned(families.model(name))
