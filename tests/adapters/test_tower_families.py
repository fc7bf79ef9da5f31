# SPDX-License-Identifier: Apache-2.0
"""Cuts inside the towers of the table's families equal stock code in which dropped rows are overwritten."""

import re

import pytest
import tiny_families as families
import torch
from family_cases import VERSION, WITHOUT_REFERENCE
from family_towers import GROUPS, KNOWN, NAMES, TOWERS, WINDOWS, blocks_of, in_windows, model_of
from packaging.version import Version
from reference.kept_rows import kept_slots, stock_logits
from reference.overwritten import overwriting, square
from tiny_models import IMAGE, batch, pixtral_llava
from tokenprune_adapters.transformers import stock

import tokenprune

CLOSE = {"atol": 5e-4, "rtol": 1e-3}
NO_TOKENS = torch.zeros(0, dtype=torch.long)


def n_blocks(model):
    return tokenprune.default_registry().adapter_for(model)(model).tower().n_projected


def rows_left(name, images):
    """(B, M) which rows are left of the tower, from the reports of images."""
    tower = TOWERS[name]
    masks = []
    for image in images:
        patches = tower.patches
        survivors = image.survivors if image.survivors is not None else torch.arange(len(image.layout))
        if len(image.layout) < len(patches):  # a lower picture of the same width
            lower = {id(GROUPS): GROUPS[:8], id(WINDOWS): in_windows(2, 4)}
            patches = lower.get(id(patches), square(4, 8, 2))
        n = patches.numel() if tower.packed else tower.patches.numel()  # a batch pads lower pictures
        mask = torch.zeros(tower.n_prefix + n, dtype=torch.bool)
        mask[: tower.n_prefix] = True
        mask[tower.n_prefix + patches[survivors].flatten()] = True
        masks.append(mask)
    return torch.cat(masks)[None] if tower.packed else torch.stack(masks)


def rows_of(name, inputs):
    """Each row of a batch alone."""
    return [families.cut_row(name, inputs, row) for row in range(len(inputs["input_ids"]))]


def check(name, model, inputs, alone, cuts, got, report):
    """Compare the logits of each row with the overwritten stock model on what is kept.

    `alone` are the inputs of each row. `cuts` maps blocks to reports of what is left from there on.
    """
    if name in WITHOUT_REFERENCE:
        pytest.skip("the reference cannot call it in this version of transformers")
    for row, one in enumerate(alone):
        images = [image for image in report.images if image.row == row]
        keep = kept_slots(one["input_ids"][0], images)
        left = {
            block: rows_left(name, [image for image in its.images if image.row == row])
            for block, its in cuts.items()
            if images
        }
        with overwriting(blocks_of(model, name), left):
            want = stock_logits(model, one, keep, NO_TOKENS)
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(got[row, real][keep], want, **CLOSE)


def pruned(model, inputs, **options):
    with torch.no_grad(), tokenprune.apply(model, **options) as handle:
        return model(**inputs).logits, handle.last


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_tower_equals_stock_code_with_overwritten_rows(name, layer):
    model, inputs = model_of(name), families.inputs(name)
    for keep in (max(2, families.tokens_of(name) // 2 - 1), 1):
        got, report = pruned(model, inputs, method="divprune", keep=keep, stage="vision", layer=layer)
        assert [image.tower_cuts for image in report.images] == [{layer: keep}] * 3
        check(name, model, inputs, rows_of(name, inputs), {layer: report}, got, report)


@pytest.mark.parametrize("name", NAMES)
def test_several_cuts_in_one_tower(name):
    model, inputs = model_of(name), families.inputs(name)
    options = {"method": "divprune", "stage": "vision"}
    _, first = pruned(model, inputs, **options, keep=3, layer=0)
    got, second = pruned(model, inputs, **options, schedule={0: 3, 1: 2})
    assert [image.tower_cuts for image in second.images] == [{0: 3, 1: 2}] * 3
    check(name, model, inputs, rows_of(name, inputs), {0: first, 1: second}, got, second)


@pytest.mark.parametrize("second", ["divprune", "zoo-exact"])
@pytest.mark.parametrize("name", NAMES)
def test_a_method_at_the_projector_chooses_among_the_survivors(name, second):
    model, inputs = model_of(name), families.inputs(name)
    first = tokenprune.method("divprune", stage="vision", layer=1)
    try:
        tokenprune.apply(model, method=second, keep=1).remove()
    except tokenprune.IncompatibleError:
        pytest.skip("not with this projector")
    got, report = pruned(model, inputs, method=[first, second], keep=[3, 2])
    for image in report.images:
        assert (image.tower_cuts, image.cuts, image.n_after) == ({1: 3}, {0: 2}, 2)
        assert set(image.kept.tolist()) <= set(image.survivors.tolist())
    check(name, model, inputs, rows_of(name, inputs), {1: report}, got, report)


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_equals_each_row_alone(name):
    model, inputs = model_of(name), families.inputs(name)
    options = {"method": "divprune", "stage": "vision", "layer": 1, "keep": 3}
    got, together = pruned(model, inputs, **options)
    for row, one_row in enumerate(rows_of(name, inputs)):
        alone, report = pruned(model, one_row, **options)
        images = [image for image in together.images if image.row == row]
        for one, other in zip(report.images if report else (), images, strict=True):
            assert torch.equal(one.kept, other.kept)
        real = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(got[row, real], alone[0], **CLOSE)


SEVERAL = ((3, ("I", 8), 5), (2, ("I", 4), 4, ("I", 8), 3), (6,))  # heights in patches


def pictures_of_heights(name, rows):
    """Inputs of pictures that are 8 patches wide; what is drawn depends on the row's parts only."""
    tokens, images = [], []
    for row in rows:
        draw, ids = torch.Generator().manual_seed(len(row)), [1]
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(2, 79, (part,), generator=draw).tolist()
                continue
            height = part[1]
            whole = families.inputs(name, ("I",), seed=height)
            image = {key: value for key, value in whole.items() if key not in families.PER_TOKEN}
            if "image_position_ids" in image:
                image["image_position_ids"][:, height * 8 :] = -1
            elif "image_sizes" in image:
                image["image_sizes"] = torch.tensor([[height * 4, 32]])
            else:
                image["image_grid_thw"] = torch.tensor([[1, height, 8]])
                image["pixel_values"] = image["pixel_values"][: height * 8]
            images.append(image)
            before, *after = [token for token in whole["input_ids"][0, 1:].tolist() if token != IMAGE] or [
                None
            ]
            ids += [*([] if before is None else [before]), *[IMAGE] * (height * 2), *after]
        tokens.append(ids)
    made = batch(tokens)
    if name in families.GEMMA4 or (name in families.STRUCTURAL and families.STRUCTURAL[name].kinds):
        made["mm_token_type_ids"] = (made["input_ids"] == IMAGE).int()
    return made | (families.join_images(name, images) if images else {})


@pytest.mark.parametrize("name", [n for n in NAMES if TOWERS[n].packed or n in families.GEMMA4])
def test_pictures_of_several_sizes(name):
    model, inputs = model_of(name), pictures_of_heights(name, SEVERAL)
    alone = [pictures_of_heights(name, [row]) for row in SEVERAL]
    for keep in (7, 1):
        got, report = pruned(model, inputs, method="divprune", keep=keep, stage="vision", layer=1)
        assert [image.n_after for image in report.images] == [keep] * 3
        check(name, model, inputs, alone, {1: report}, got, report)
    got, report = pruned(model, inputs, method="divprune", keep=9, stage="vision", layer=1)
    assert [image.n_after for image in report.images] == [9, 8, 9]  # one image is left whole
    check(name, model, inputs, alone, {1: report}, got, report)


def test_a_ratio_of_pictures_of_several_sizes_is_refused_in_a_batch():
    model, inputs = families.model("gemma4"), pictures_of_heights("gemma4", SEVERAL)
    with pytest.raises(tokenprune.UnsupportedCallError, match="give keep=, or pictures of one size"):
        pruned(model, inputs, method="divprune", keep_ratio=0.5, stage="vision", layer=1)
    alone = pictures_of_heights("gemma4", [(3, ("I", 4), 2)])
    _, report = pruned(model, alone, method="divprune", keep_ratio=0.5, stage="vision", layer=1)
    assert [image.n_after for image in report.images] == [4]
    with pytest.raises(tokenprune.UnsupportedCallError, match="a mask hides some"):
        pruned(
            model,
            alone,
            scorer=tokenprune.scorer("attention", source="received"),
            keep=3,
            stage="vision",
            layer=1,
        )


def test_patches_that_a_mask_hides():
    """The lower half of a picture is hidden from attention; its tokens are in the prompt all the same."""
    model, inputs = model_of("idefics3"), families.inputs("idefics3")
    mask = torch.ones(*inputs["pixel_values"].shape[:2], 32, 32, dtype=torch.bool)
    mask[1, 0, 16:] = False
    inputs = {**inputs, "pixel_attention_mask": mask}
    alone = rows_of("idefics3", inputs)
    for row, n_images in enumerate((1, 2)):
        alone[row]["pixel_attention_mask"] = mask[row : row + 1, :n_images]
    for keep in (3, 2):
        got, report = pruned(model, inputs, method="divprune", keep=keep, stage="vision", layer=1)
        check("idefics3", model, inputs, alone, {1: report}, got, report)


def pixtral_inputs(*rows):
    """Inputs of the tiny LLaVA with Pixtral's tower: rows of text lengths and (height, width) in patches."""
    tokens, pixels, sizes = [], [], []
    for row in rows:
        draw, ids = torch.Generator().manual_seed(len(row)), [1]
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(2, 79, (part,), generator=draw).tolist()
                continue
            picture = torch.zeros(3, 48, 48)
            size = [8 * side for side in part]
            picture[:, : size[0], : size[1]] = torch.randn(3, *size, generator=draw)
            ids += [IMAGE] * (part[0] * part[1])
            pixels.append(picture)
            sizes.append(size)
        tokens.append(ids)
    made = batch(tokens)
    return made | (
        {"pixel_values": torch.stack(pixels), "image_sizes": torch.tensor(sizes)} if pixels else {}
    )


@pytest.mark.skipif(VERSION < Version("5.20"), reason="its forward does not pass the sizes of pictures")
@pytest.mark.parametrize("layer", [0, 1])
def test_llava_with_pixtrals_tower(layer):
    model = pixtral_llava()
    rows = ((3, (4, 6), 5), (2, (3, 3), 4, (5, 2), 3), (6,))
    inputs, alone = pixtral_inputs(*rows), [pixtral_inputs(row) for row in rows]
    first = tokenprune.method("divprune", stage="vision", layer=layer)
    for second in ((), ("divprune",), ("zoo-exact",)):
        budget = [7, 4] if second else 7
        got, report = pruned(model, inputs, method=[first, *second] if second else first, keep=budget)
        assert [image.tower_cuts for image in report.images] == [{layer: 7}] * 3
        for row, one in enumerate(alone):
            images = [image for image in report.images if image.row == row]
            left = [torch.zeros(len(image.layout), dtype=torch.bool) for image in images]
            for mask, image in zip(left, images, strict=True):
                mask[image.survivors] = True
            keep = kept_slots(one["input_ids"][0], images)
            blocks = model.model.vision_tower.transformer.layers
            with overwriting(blocks, {layer: torch.cat(left)[None]} if left else {}):
                want = stock_logits(model, one, keep, NO_TOKENS)
            torch.testing.assert_close(got[row, inputs["attention_mask"][row].bool()][keep], want, **CLOSE)


def hooks_of(model):
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_keeps_all_changes_nothing_and_removal_is_exact(name):
    model, inputs = model_of(name), families.inputs(name)
    want, before = model(**inputs).logits, hooks_of(model)
    n = families.tokens_of(name)
    for keep in (n, n + 5):
        got, report = pruned(model, inputs, method="divprune", stage="vision", layer=1, keep=keep)
        assert torch.equal(got, want)
        assert all(image.kept is None for image in report.images)
    pruned(model, inputs, method="divprune", stage="vision", layer=1, keep=1)
    assert hooks_of(model) == before
    assert torch.equal(model(**inputs).logits, want)


@pytest.mark.parametrize("name", NAMES)
def test_attention_inside_the_tower_is_that_of_an_image_alone(name):
    """The signals of an image do not depend on what else is in the batch."""
    model, inputs = model_of(name), families.inputs(name)
    given = tokenprune.default_registry().adapter_for(model)(model).provides["vision"]
    wanted = given & {"received_attention", "key_metric", "cls_attention"}
    seen = []

    class Reading(tokenprune.Scorer):
        """Keeps signals."""

        name = "reading"
        needs = frozenset(wanted)

        def score(self, tokens):
            seen.append({signal: tokens.signal(signal) for signal in wanted})
            return torch.zeros(len(tokens))

    options = {"scorer": Reading(), "stage": "vision", "layer": 1, "keep": 2}
    pruned(model, inputs, **options)
    together = list(seen)
    seen.clear()
    for row in range(2):
        pruned(model, families.cut_row(name, inputs, row), **options)
    for one, other in zip(seen, together, strict=True):
        for signal, value in one.items():
            torch.testing.assert_close(value, other[signal], **CLOSE)
        if "received_attention" in one:
            total = one["received_attention"].sum() * TOWERS[name].patches.shape[1]
            n_windows = 4 if TOWERS[name].patches is WINDOWS else 1
            assert (0.5 < total <= 1) if TOWERS[name].n_prefix else abs(total - n_windows) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_the_patches_of_each_token(name):
    model, inputs = model_of(name), families.inputs(name, (3, "I", 5))
    seen = []

    class Reading(tokenprune.Scorer):
        """Keeps the pixels."""

        name = "reading"
        needs = frozenset({"pixels"})

        def score(self, tokens):
            seen.append(tokens.signal("pixels"))
            return torch.zeros(len(tokens))

    options = {"scorer": Reading(), "stage": "vision", "layer": 0, "keep": 2}
    if "pixels" not in tokenprune.default_registry().adapter_for(model)(model).provides["vision"]:
        with pytest.raises(tokenprune.IncompatibleError, match="pixels"):
            pruned(model, inputs, **options)
        return
    pruned(model, inputs, **options)
    want = inputs["pixel_values"].flatten(1)[TOWERS[name].patches].flatten(1)
    assert torch.equal(seen[0], want)


def test_image_tokens_are_those_of_the_table():
    for name in NAMES:
        per_image = (families.inputs(name, (3, "I", 5))["input_ids"] == IMAGE).sum()
        assert per_image == len(TOWERS[name].patches), name


# -- what is refused


REFUSED = {
    "got_ocr2": "was not tested",
    "aria": "was not tested",
    "step3p7": "was not tested",
    "muse_glimmer": "was not tested",
}


@pytest.mark.parametrize("name", [name for name in REFUSED if name in KNOWN])
def test_families_without_a_description_are_refused(name):
    model = model_of(name)
    assert "vision" not in tokenprune.default_registry().adapter_for(model)(model).provides
    with pytest.raises(tokenprune.IncompatibleError, match=REFUSED[name]):
        tokenprune.apply(model, method="divprune", stage="vision", layer=1, keep=2)


def refused(name, **settings):
    """Change settings of a tiny model; what is said of its tower."""
    model = families.build(name)
    for key, value in settings.items():
        holder, _, last = key.rpartition("__")
        setattr(getattr(model.config, holder) if holder else model.config, last, value)
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    assert adapter.tower() is None and "vision" not in adapter.provides
    return adapter.why_no_tower()


def test_other_kinds_of_towers_and_rows_that_are_no_patches_are_refused():
    said = refused("gemma3", vision_config__model_type="clip_vision_model")
    assert said == "cuts inside a tower of the type clip_vision_model were not tested"
    said = refused("gemma3", vision_config__model_type="")
    assert said == "cuts inside a tower of the type SiglipVisionConfig were not tested"
    said = refused("internvl", vision_feature_select_strategy="full")
    assert "makes the class token a visual token" in said
    said = refused("aya_vision", vision_feature_select_strategy="default")
    assert "drops the first patch of a tower without a class token" in said


@pytest.mark.skipif("minimax_m3_full" not in KNOWN, reason="not in this transformers")
def test_a_tower_that_mixes_images_in_older_transformers_is_refused_before_a_call(monkeypatch):
    model = families.build("minimax_m3_full")
    monkeypatch.setattr(stock, "installed_version", lambda: "5.22.1")
    said = (
        "transformers 5.22.1 lets the images of a call attend to each other in its tower, which "
        "transformers 5.23 corrected. Choose a method that cuts at the projector stage"
    )
    with pytest.raises(tokenprune.IncompatibleError, match=re.escape(said)):
        tokenprune.apply(model, method="divprune", stage="vision", layer=1, keep=2)
    assert "vision" not in tokenprune.default_registry().adapter_for(model)(model).provides
    monkeypatch.setattr(stock, "installed_version", lambda: "5.23.0")
    assert tokenprune.default_registry().adapter_for(model)(model).why_no_tower() == ""


def test_a_description_that_does_not_fit_is_said():
    model = families.build("paligemma")
    tower = model.model.vision_tower
    owner = getattr(tower, "vision_model", tower)
    owner.blocks = owner.encoder
    del owner.encoder
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    assert "has another structure here" in adapter.why_no_tower()


def test_a_call_that_projects_another_layer_is_refused():
    model, inputs = families.model("mistral3"), families.inputs("mistral3")
    with tokenprune.apply(model, method="divprune", stage="vision", layer=0, keep=2):
        with pytest.raises(tokenprune.UnsupportedCallError, match="vision_feature_layer=-2"):
            model(**inputs, vision_feature_layer=-2)


def test_a_layer_whose_output_is_not_projected_is_refused():
    model = families.build("aya_vision")
    model.config.vision_feature_layer = -2
    with pytest.raises(tokenprune.IncompatibleError, match="blocks 0 ... 0 are possible"):
        tokenprune.apply(model, method="divprune", stage="vision", layer=1, keep=2)
    inputs = families.inputs("aya_vision")
    got, report = pruned(model, inputs, method="divprune", stage="vision", layer=0, keep=3)
    check("aya_vision", model, inputs, rows_of("aya_vision", inputs), {0: report}, got, report)


def test_sizes_that_do_not_fit_the_pictures_are_refused():
    from tokenprune_adapters.transformers.tower.described import squares

    with pytest.raises(tokenprune.UnsupportedCallError, match="no whole number of squares of 2 x 2"):
        squares(5, 4, 2)
    model = families.model("paddleocr_vl")
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    with pytest.raises(tokenprune.UnsupportedCallError, match="makes 64 patches .* has 60 rows"):
        adapter.tower_images({"image_grids": torch.tensor([[1, 8, 8]])}, (1, 60))
    with pytest.raises(tokenprune.UnsupportedCallError, match="needs the argument image_grid_thw"):
        adapter.tower_images({"image_grids": None}, (1, 64))


def test_rows_that_no_mask_divides_are_refused():
    """As Pixtral's under flash attention, which is told of images by arguments that are not shortened."""
    from tokenprune_adapters.transformers.calls import BlockCall
    from tokenprune_adapters.transformers.tower.gather import ShortArguments

    from tokenprune.towers.survivors import Survivors

    keep = torch.tensor([[True, False, True, True]])
    short = ShortArguments(Survivors(keep, (0, 4), 1, packed=True))
    with pytest.raises(tokenprune.UnsupportedCallError, match="attn_implementation='sdpa'"):
        short.shorten(BlockCall({}, torch.zeros(1, 3, 2)))
    places = torch.zeros(1, 5, 2)
    with pytest.raises(tokenprune.UnsupportedCallError, match=r"positions of shape \(1, 5, 2\)"):
        short.shorten(BlockCall({}, torch.zeros(1, 3, 2), positions=places))
