# SPDX-License-Identifier: Apache-2.0
"""open_clip's models, pruned: the image tower as by hand, everything else as it was."""

import open_clip
import pytest
import torch
from reference import tower_by_hand
from tiny_towers import TEXT, TOWERS, VISION, clip, clip_pictures, filled, pictures, text

import tokenprune

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
RECEIVED = tokenprune.scorer("attention", source="received")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def everything(model, x, ids):
    """Whatever a caller gets: features, logits, the forward's tuple."""
    return [
        model.encode_image(x),
        model.encode_image(x, normalize=True),
        model.encode_text(ids),
        *model.get_logits(x, ids),
        *model(x, ids)[:3],
    ]


def trace(model):
    """Whatever a pruning could leave behind."""
    return [(len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for m in model.modules()]


@pytest.mark.parametrize("name", TOWERS)
def test_keeping_everything_and_removal_are_bit_identical_and_leave_no_trace(name):
    model, x, ids = clip(name), clip_pictures(name), text()
    before, untouched = everything(model, x, ids), trace(model)
    with tokenprune.apply(model, scorer=RECEIVED, keep_ratio=1.0, layer=2):
        during = everything(model, x, ids)
    with tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=2):
        pruned = everything(model, x, ids)
    after = everything(model, x, ids)
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert trace(model) == untouched
    assert not torch.allclose(pruned[0], before[0], atol=1e-4)
    assert torch.equal(pruned[2], before[2])  # text is not pruned
    assert [one.shape for one in pruned] == [one.shape for one in before]


@pytest.mark.parametrize("scorer", ["zoo-exact", RECEIVED], ids=["zoo-exact", "received"])
@pytest.mark.parametrize("name", TOWERS)
def test_the_image_tower_equals_its_blocks_by_hand_on_the_kept_tokens(name, scorer):
    model, x = clip(name), clip_pictures(name)
    if "pool" in name and scorer == "zoo-exact":
        scorer = "uniform"  # this one has no map from a token to the output
    with tokenprune.apply(model, scorer=scorer, selector="diverse", keep=9, layer=2) as handle:
        got, images = model.encode_image(x), handle.last.images
    assert [(image.row, image.n_after, image.cuts) for image in images] == [(i, 9, {2: 9}) for i in range(3)]
    assert len({tuple(image.kept.tolist()) for image in images}) > 1
    for row, image in enumerate(images):
        want = tower_by_hand.open_clip_tower(model.visual, x[row : row + 1], 2, image.kept)
        torch.testing.assert_close(got[row : row + 1], want, **TOLERANCE)


@pytest.mark.parametrize("pool", ["parallel", "cascade"])
def test_towers_that_pool_tokens_and_output_apart(pool):
    tower = open_clip.transformer.VisionTransformer(
        48, 8, 32, 4, 4, 4, attentional_pool=pool, attn_pooler_queries=3, attn_pooler_heads=4, output_dim=32
    )
    tower, x = filled(tower), clip_pictures("native")
    with tokenprune.apply(tower, scorer=RECEIVED, keep=9, layer=2) as handle:
        got, kept = tower(x), handle.last.images[1].kept
    torch.testing.assert_close(got[1:2], tower_by_hand.open_clip_tower(tower, x[1:2], 2, kept), **TOLERANCE)


def test_the_real_vit_b_32():
    """Its image tower at its own size, 50 tokens, with random weights; beside a tiny text tower."""
    config = open_clip.get_model_config("ViT-B-32") | {"text_cfg": dict(TEXT)}
    model = open_clip.model.CLIP(**config).eval()
    x, ids = pictures(2, side=224), text()
    whole, words = model.encode_image(x), model.encode_text(ids)
    with tokenprune.apply(model, scorer="attention", selector="diverse", keep=49, layer=4):
        assert torch.equal(model.encode_image(x), whole)
    with tokenprune.apply(model, scorer="attention", selector="diverse", keep=24, layer=4) as handle:
        got, images = model.encode_image(x), handle.last.images
        assert torch.equal(model.encode_text(ids), words)
    assert torch.equal(model.encode_image(x), whole)
    assert [(image.n_before, image.n_after) for image in images] == [(49, 24)] * 2
    for row, image in enumerate(images):
        want = tower_by_hand.open_clip_tower(model.visual, x[row : row + 1], 4, image.kept)
        torch.testing.assert_close(got[row : row + 1], want, **TOLERANCE)
        assert not torch.allclose(got[row], whole[row], atol=1e-3)


@pytest.mark.parametrize("name", ["native", "timm"])
def test_a_zero_shot_classifier_uses_the_pruned_tower_and_is_built_as_before(name):
    model, x = clip(name), clip_pictures(name)
    classes, templates = ["cat", "dog", "owl"], [lambda c: f"a {c}", lambda c: f"the {c}"]

    def tokenizer(texts):
        return torch.tensor([[ord(letter) % 49 + 1 for letter in one.ljust(8)[:8]] for one in texts])

    def build():
        return open_clip.build_zero_shot_classifier(model, tokenizer, classes, templates, use_tqdm=False)

    weights = build()
    with tokenprune.apply(
        model, scorer="attention" if name == "native" else RECEIVED, keep=9, layer=2
    ) as handle:
        assert torch.equal(build(), weights)
        assert handle.last is None
        logits = model.encode_image(x, normalize=True) @ weights
        kept = handle.last.images[2].kept
    want = tower_by_hand.open_clip_tower(model.visual, x[2:], 2, kept)
    torch.testing.assert_close(
        logits[2], torch.nn.functional.normalize(want, dim=-1)[0] @ weights, **TOLERANCE
    )


@pytest.mark.parametrize("name", ["native", "timm"])
def test_forward_intermediates_refuses_a_grid_of_what_is_gone(name):
    model, x, ids = clip(name), clip_pictures(name), text()
    whole = model.forward_intermediates(x, ids, image_indices=[0, 1])
    with tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=2) as handle:
        with pytest.raises(tokenprune.UnsupportedCallError, match="grid.*fewer tokens than patches"):
            model.forward_intermediates(x, ids)
        assert handle.last is None
        early = model.forward_intermediates(x, ids, image_indices=[0, 1])
        rows = model.forward_intermediates(x, ids, image_output_fmt="NLC")["image_intermediates"]
        assert rows[1].shape[1] > rows[2].shape[1] == 9
        torch.testing.assert_close(early["image_features"], model.encode_image(x, normalize=True))
    pairs = zip(early["image_intermediates"], whole["image_intermediates"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_tower_is_pruned_alone_but_not_twice():
    model, x = clip("native"), clip_pictures("native")
    with tokenprune.apply(model.visual, method="stride", keep=9, layer=2) as handle:
        pruned = model.encode_image(x)
        assert handle.last.n_after == 27
        with pytest.raises(tokenprune.AlreadyPrunedError, match="part of"):
            tokenprune.apply(model, method="stride", keep=9, layer=2)
        assert torch.equal(model.encode_image(x), pruned)
    timm_tower = clip("timm")
    with tokenprune.apply(timm_tower, method="stride", keep=9, layer=2):
        with pytest.raises(tokenprune.AlreadyPrunedError):
            tokenprune.apply(timm_tower.visual.trunk, method="stride", keep=9, layer=2)


def test_compiled_code_follows_pruning_and_removal(dynamo):
    model, x, ids = (
        filled(open_clip.model.CLIP(24, VISION | {"layers": 2}, dict(TEXT))),
        clip_pictures("native"),
        text(),
    )
    before = model(x, ids)[0]
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x, ids)[0], before)
    with tokenprune.apply(model, scorer="attention", keep=9, layer=1) as handle:
        pruned = model(x, ids)[0]
        torch.testing.assert_close(compiled(x, ids)[0], pruned)
        assert handle.last.n_after == 27
    torch.testing.assert_close(compiled(x, ids)[0], before)


def test_gradient_checkpointing_is_refused():
    model, x = filled(open_clip.model.CLIP(24, dict(VISION), dict(TEXT))), clip_pictures("native")
    model.set_grad_checkpointing(True)
    with tokenprune.apply(model, method="stride", keep=9, layer=2), torch.enable_grad():
        with pytest.raises(tokenprune.UnsupportedCallError, match="checkpointing"):
            model.encode_image(x)


def test_what_a_tower_cannot_give_is_said():
    attentional = clip("native attentional pool")
    with pytest.raises(tokenprune.IncompatibleError, match="pre_features, projector"):
        tokenprune.apply(attentional, scorer="zoo-exact", keep=9, layer=2)
    with pytest.raises(tokenprune.IncompatibleError, match="cls_attention"):
        tokenprune.apply(clip("timm siglip"), scorer="attention", keep=9, layer=2)


RESNET = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64, "head_width": 8}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64}


@pytest.mark.parametrize(
    ("vision", "reason"),
    [(RESNET, "open_clip's CLIP .*convolutional"), (CONVNEXT, "timm's ConvNeXt .*hierarchical")],
)
def test_towers_without_tokens_are_refused_by_name(vision, reason):
    model = open_clip.model.CLIP(16, dict(vision), dict(TEXT))
    with pytest.raises(tokenprune.UnsupportedModelError, match=reason):
        tokenprune.apply(model, method="stride", keep=9, layer=2)


def test_models_that_write_captions_are_refused_by_name():
    decoder = dict(TEXT)
    model = open_clip.coca_model.CoCa(
        16, multimodal_cfg=decoder, text_cfg=decoder, vision_cfg=VISION | {"attentional_pool": True}
    )
    with pytest.raises(tokenprune.UnsupportedModelError, match="CoCa cannot be pruned.*captions"):
        tokenprune.apply(model, method="stride", keep=9, layer=2)


def test_other_models_of_open_clip_are_refused_by_name():
    tower = open_clip.transformer.TextTransformer(8, 50, 16, 2, 1)
    with pytest.raises(tokenprune.UnsupportedModelError, match="TextTransformer cannot be pruned"):
        tokenprune.apply(tower, method="stride", keep=9, layer=2)
