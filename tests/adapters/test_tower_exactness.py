# SPDX-License-Identifier: Apache-2.0
"""Cuts inside vision towers equal towers that are run by hand on the survivors, and stock code after them."""

import pytest
import tiny_families as families
import tiny_models
import torch
from model_cases import Case
from reference import tower_rows
from reference.kept_rows import entered, kept_slots, stock_logits
from tiny_models import IMAGE

import tokenprune

CLOSE = {"atol": 2e-4, "rtol": 1e-3}
NO_TOKENS = torch.zeros(0, dtype=torch.long)


def variant(layers=-2, tower="clip", rule="default"):
    """A LLaVA with another list of projected layers, or a SigLIP tower."""
    import transformers

    config = tiny_models.llava().config
    settings = config.to_dict() | {"vision_feature_layer": layers, "vision_feature_select_strategy": rule}
    if tower == "siglip":
        settings["vision_config"] = families.SIGLIP | {"num_hidden_layers": 3}
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.std() < 0.1:
                weight.mul_(0.2 / weight.std().clamp(min=1e-3))
    return model


LLAVAS = {
    "clip": dict(),
    "clip, last": dict(layers=-1),
    "clip, a list": dict(layers=[-3, -1]),
    "clip, from the start": dict(layers=[0, -2]),
    "siglip": dict(layers=-1, tower="siglip", rule="full"),
    "siglip, second to last": dict(layers=-2, tower="siglip", rule="full"),
}


def survivors_of(report):
    """(images, K) tokens of each image that left the tower."""
    images = {image.number: image.survivors for image in report.images}
    return torch.stack([images[number] for number in sorted(images)])


def check_dense(model, inputs, cuts, got, report):
    """Compare logits of each row with the tower by hand, then stock code on what is kept."""
    rows, left = tower_rows.dense(model, inputs["pixel_values"], cuts), cuts[max(cuts)]
    for row in range(len(got)):
        images = [image for image in report.images if image.row == row]
        one = tiny_models.cut_row(inputs, row)
        embeds = entered(model, one)["inputs_embeds"].clone()
        slots = (one["input_ids"][0] == IMAGE).nonzero().squeeze(1)
        for image, own in zip(images, slots.split(tiny_models.N), strict=False):
            embeds[0, own[left[image.number]]] = rows[image.number]
        keep = kept_slots(one["input_ids"][0], images)
        want = stock_logits(model, one, keep, NO_TOKENS, inputs_embeds=embeds)
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(got[row, real][keep], want, **CLOSE)


BATCH = ((3, "I", 5), (2, "I", 4, "I", 3), (6,))


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", LLAVAS)
def test_llava_equals_its_blocks_by_hand(name, layer):
    model = variant(**LLAVAS[name])
    n_projected = tokenprune.default_registry().adapter_for(model)(model).tower().n_projected
    if layer >= n_projected:
        pytest.skip("rows are taken before that block")
    inputs = tiny_models.llava_inputs(*BATCH, seed=1)
    with tokenprune.apply(model, method="divprune", keep=7, stage="vision", layer=layer) as handle:
        got = model(**inputs).logits
    assert [image.tower_cuts for image in handle.last.images] == [{layer: 7}] * 3
    check_dense(model, inputs, {layer: survivors_of(handle.last)}, got, handle.last)


AFTER = [
    (name, second) for name in ("clip", "siglip, second to last") for second in ("divprune", "zoo-exact")
]


@pytest.mark.parametrize(("name", "second"), [*AFTER, ("clip", "visionzip")])
def test_a_method_at_the_projector_chooses_among_the_survivors(name, second):
    model, inputs = variant(**LLAVAS[name]), tiny_models.llava_inputs(*BATCH, seed=1)
    first = tokenprune.method("divprune", stage="vision", layer=1)
    with tokenprune.apply(model, method=[first, second], keep=[9, 4]) as handle:
        got = model(**inputs).logits
    for image in handle.last.images:
        assert (image.tower_cuts, image.cuts, image.n_after) == ({1: 9}, {0: 4}, 4)
        kept = image.kept[image.kept >= 0]
        assert set(kept.tolist()) <= set(image.survivors.tolist())
    if second != "visionzip":  # which makes new rows
        check_dense(model, inputs, {1: survivors_of(handle.last)}, got, handle.last)


def test_several_cuts_in_one_tower():
    """The first choice is that of a single cut, and the second is made among its survivors."""
    model, inputs = variant(layers=-1), tiny_models.llava_inputs(*BATCH, seed=1)
    with tokenprune.apply(model, method="divprune", keep=9, stage="vision", layer=1) as handle:
        model(**inputs)
    first = survivors_of(handle.last)
    with tokenprune.apply(model, method="divprune", stage="vision", schedule={1: 9, 2: 4}) as handle:
        got = model(**inputs).logits
    second = survivors_of(handle.last)
    assert [image.tower_cuts for image in handle.last.images] == [{1: 9, 2: 4}] * 3
    assert [image.tokens_entering(3) for image in handle.last.images] == [[16, 9, 4]] * 3
    check_dense(model, inputs, {1: first, 2: second}, got, handle.last)


def test_attention_after_a_cut_is_that_of_the_short_tower():
    """The scores of `attention` at the projector, over the survivors, from queries and keys by hand."""
    model, inputs = variant(), tiny_models.llava_inputs((3, "I", 5), seed=1)
    first = tokenprune.method("divprune", stage="vision", layer=1)
    second = tokenprune.Method("by-attention", scorer="attention", selector="topk")
    with tokenprune.apply(model, method=[first, second], keep=[9, 4]) as handle:
        model(**inputs)
    image = handle.last.images[0]
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    rows = tower.pre_layrnorm(tower.embeddings(inputs["pixel_values"]))
    rows = tower.encoder.layers[0](rows, None)
    rows = rows[:, [0, *(image.survivors + 1).tolist()]]
    block = tower.encoder.layers[1]  # the block whose output is projected
    normed = block.layer_norm1(rows)
    query, key = (
        project(normed)[0].view(10, 4, 8).transpose(0, 1)
        for project in (block.self_attn.q_proj, block.self_attn.k_proj)
    )
    want = (query[:, :1] @ key.mT * 8**-0.5).softmax(-1)[:, 0, 1:].mean(0)
    torch.testing.assert_close(image.selection.scores, want, **CLOSE)


@pytest.mark.parametrize("layer", [1])
@pytest.mark.parametrize("name", ["received", "cls", "keys"])
def test_signals_inside_the_tower_are_those_of_the_block_before(name, layer):
    """Attention of the class token, attention received, and keys, from the block's own weights."""
    model, inputs = variant(), tiny_models.llava_inputs((3, "I", 5), seed=1)
    read = {"received": "received_attention", "cls": "cls_attention", "keys": "key_metric"}[name]
    seen = {}

    class Reading(tokenprune.Scorer):
        """Keeps a signal."""

        name = "reading"
        needs = frozenset({read})

        def score(self, tokens):
            seen["signal"] = tokens.signal(read)

    with tokenprune.apply(model, scorer=Reading(), keep=5, stage="vision", layer=layer):
        model(**inputs)
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    rows = tower.pre_layrnorm(tower.embeddings(inputs["pixel_values"]))
    block = tower.encoder.layers[layer - 1]
    normed = block.layer_norm1(rows)
    query, key = (
        project(normed)[0].view(17, 4, 8).transpose(0, 1)
        for project in (block.self_attn.q_proj, block.self_attn.k_proj)
    )
    attention = (query @ key.mT * 8**-0.5).softmax(-1)
    want = {
        "received": attention[:, 1:].mean((0, 1))[1:],
        "cls": attention[:, 0, 1:],
        "keys": key.mean(0)[1:],
    }[name]
    torch.testing.assert_close(seen["signal"], want, **CLOSE)


# -- packed towers


def packed_case(name):
    """A model, a batch of three rows with pictures of several sizes, and their grids."""
    if name == "qwen2_5_vl":
        return Case("qwen").model, tiny_models.qwen_inputs(*PACKED, seed=1)
    inputs = tiny_models.qwen_inputs(*PACKED, seed=1)
    inputs.pop("second_per_grid_ts", None)
    if name.endswith("omni"):
        del inputs["mm_token_type_ids"]
    return families.model(name), inputs


PACKED = ((3, ("I", 8, 12), 5), (2, ("I", 6, 10), 3, ("I", 4, 14), 4), (7,))
PACKED_FAMILIES = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "glm4v", "glm46v"]
PACKED_FAMILIES += [name for name in ("qwen2_5_omni", "qwen3_omni") if name in families.CLASSES]


def check_packed(model, inputs, cuts, got, report):
    """Compare logits with the tower by hand, then the unpruned language model that sees what is kept."""
    grids = inputs["image_grid_thw"]
    rows, taps = tower_rows.packed(model, inputs["pixel_values"], grids, cuts)
    counts = (grids.prod(1) // 4).tolist()
    before = [sum(counts[:number]) for number in range(len(counts))]
    for row in range(len(got)):
        images = [image for image in report.images if image.row == row]
        real = inputs["attention_mask"][row].bool()
        one = {k: inputs[k][row : row + 1, real] for k in PER_TOKEN if k in inputs}
        if images:
            numbers = [image.number for image in images]
            patches = grids.prod(1).tolist()
            split = inputs["pixel_values"].split(patches)
            one |= {"pixel_values": torch.cat([split[n] for n in numbers]), "image_grid_thw": grids[numbers]}
        seen = entered(model, one)
        embeds, slots = seen["inputs_embeds"].clone(), (one["input_ids"][0] == IMAGE).nonzero().squeeze(1)
        own = (
            torch.cat([torch.arange(counts[i.number]) + before[i.number] for i in images]) if images else None
        )
        other = {}
        if images:
            embeds[0, slots] = rows[own]
            if seen.get("deepstack_visual_embeds") is not None:
                other["deepstack_visual_embeds"] = [tap[own] for tap, _ in taps]
        keep = kept_slots(one["input_ids"][0], images)
        want = stock_logits(model, one, keep, NO_TOKENS, inputs_embeds=embeds, **other)
        tolerance = CLOSE if type(model).__name__ not in WITH_STATES else {"atol": 2e-3, "rtol": 1e-3}
        torch.testing.assert_close(got[row, real][keep], want, **tolerance)


WITH_STATES = ("Qwen3_5ForConditionalGeneration",)  # rounded otherwise in one piece and row by row
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


def left(report, inputs):
    """Mask (tokens of all images,) of those that left the tower."""
    counts = (inputs["image_grid_thw"].prod(1) // 4).tolist()
    masks = [torch.zeros(count, dtype=torch.bool) for count in counts]
    for image in report.images:
        masks[image.number][image.survivors] = True
    return torch.cat(masks)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", PACKED_FAMILIES)
def test_packed_towers_equal_masked_attention_by_hand(name, layer):
    """Two tokens of each image leave windows empty; cuts before and after the taps of DeepStack."""
    model, inputs = packed_case(name)
    if layer >= tokenprune.default_registry().adapter_for(model)(model).tower().n_projected:
        pytest.skip("the tower has fewer blocks")
    for keep in (7, 2):
        with tokenprune.apply(model, method="divprune", keep=keep, stage="vision", layer=layer) as handle:
            got = model(**inputs).logits
        assert [image.tower_cuts for image in handle.last.images] == [{layer: keep}] * 3
        check_packed(model, inputs, {layer: left(handle.last, inputs)}, got, handle.last)


@pytest.mark.parametrize("name", PACKED_FAMILIES)
def test_a_method_at_the_projector_after_a_packed_tower(name):
    model, inputs = packed_case(name)
    first = tokenprune.method("divprune", stage="vision", layer=1)
    for second in ("divprune", "zoo-exact"):
        try:
            tokenprune.apply(model, method=second, keep=3).remove()
        except tokenprune.IncompatibleError:
            continue
        with tokenprune.apply(model, method=[first, second], keep=[7, 3]) as handle:
            got = model(**inputs).logits
        for image in handle.last.images:
            assert (image.tower_cuts, image.cuts, image.n_after) == ({1: 7}, {0: 3}, 3)
            assert set(image.kept.tolist()) <= set(image.survivors.tolist())
        check_packed(model, inputs, {1: left(handle.last, inputs)}, got, handle.last)


def test_several_cuts_around_the_taps_of_deepstack():
    """Rows that a tap reads before the first cut, between the cuts, and after the last."""
    model, inputs = packed_case("qwen3_vl")
    for schedule in ({0: 9, 1: 4}, {1: 9, 2: 4}):
        (first, n), (second, _) = schedule.items()
        with tokenprune.apply(model, method="divprune", keep=n, stage="vision", layer=first) as handle:
            model(**inputs)
        cuts = {first: left(handle.last, inputs)}
        with tokenprune.apply(model, method="divprune", stage="vision", schedule=schedule) as handle:
            got = model(**inputs).logits
        assert [image.tower_cuts for image in handle.last.images] == [schedule] * 3
        check_packed(model, inputs, {**cuts, second: left(handle.last, inputs)}, got, handle.last)


def test_eager_attention_in_a_batch_tower():
    model, inputs = Case("llava", "eager").model, tiny_models.llava_inputs(*BATCH, seed=1)
    call = {"scorer": "attention", "stage": "vision", "layer": 1, "keep": 5}
    with tokenprune.apply(model, **call) as handle:
        got = model(**inputs).logits
    check_dense(model, inputs, {1: survivors_of(handle.last)}, got, handle.last)


def test_eager_attention_in_a_packed_tower():
    model, inputs = Case("qwen", "eager").model, tiny_models.qwen_inputs(*PACKED, seed=1)
    scorer = tokenprune.scorer("attention", source="received")
    with tokenprune.apply(model, scorer=scorer, stage="vision", layer=1, keep=5) as handle:
        got = model(**inputs).logits
    check_packed(model, inputs, {1: left(handle.last, inputs)}, got, handle.last)


# -- merging


def test_absorbed_rows_run_through_the_later_blocks_and_the_projector():
    """Each dropped row is averaged into the survivor it is most similar to."""
    model, inputs = variant(layers=-1), tiny_models.llava_inputs((3, "I", 5), seed=1)
    with tokenprune.apply(
        model, selector="diverse", reducer="absorb", stage="vision", layer=1, keep=5
    ) as handle:
        got = model(**inputs).logits
    image = handle.last.images[0]
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    rows = tower.pre_layrnorm(tower.embeddings(inputs["pixel_values"]))
    rows = tower.encoder.layers[0](rows, None)
    patches, kept = rows[0, 1:], image.survivors.tolist()
    similar = torch.nn.functional.cosine_similarity(patches[:, None], patches[None, kept], dim=-1).argmax(1)
    similar[kept] = torch.arange(len(kept))
    merged = torch.stack([patches[similar == number].mean(0) for number in range(len(kept))])
    rows = torch.cat([rows[:, :1], merged[None]], 1)
    for block in tower.encoder.layers[1:]:
        rows = block(rows, None)
    embeds = entered(model, inputs)["inputs_embeds"].clone()
    slots = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    embeds[0, slots[kept]] = model.model.multi_modal_projector(rows[:, 1:])[0]
    keep = kept_slots(inputs["input_ids"][0], handle.last.images)
    want = stock_logits(model, inputs, keep, NO_TOKENS, inputs_embeds=embeds)
    torch.testing.assert_close(got[0, keep], want, **CLOSE)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_merged_tokens_count_for_what_they_stand_for(name):
    """`sizes` before the second cut of ToMe: the patches merged into each token so far."""
    model = variant(layers=-1) if name == "llava" else families.model(name)
    inputs = (tiny_models.llava_inputs if name == "llava" else tiny_models.qwen_inputs)(
        (3, "I" if name == "llava" else ("I", 8, 12), 5), seed=1
    )
    n, seen = 16 if name == "llava" else 96, []

    class Reading(tokenprune.Scorer):
        """Keeps the sizes."""

        name = "reading"

        def score(self, tokens):
            seen.append(tokens.signal("sizes").tolist())

    method = tokenprune.Method(
        "merging",
        scorer=Reading(),
        selector="bipartite",
        reducer="merge",
        stage="vision",
        schedule=tokenprune.ExplicitSchedule((1, 2), (n - 5, n - 9)),
    )
    with tokenprune.apply(model, method=method, keep=n - 9):
        model(**inputs)
    first, second = seen
    assert first == [1.0] * n
    assert len(second) == n - 5 and sum(second) == n and max(second) >= 2
