# SPDX-License-Identifier: Apache-2.0
"""`duplicates` and other counts that depend on the picture, in bare towers of timm and open_clip."""

import copy

import pytest
import torch
from reference import duplicates, tower_by_hand
from timm.models.vision_transformer import VisionTransformer
from tiny_towers import SMALL, clip, clip_pictures, filled, pictures, timm_model
from tokenprune_adapters.vit.run import patches_of

import tokenprune

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
DUPLICATES = {"selector": "duplicates", "keep_ratio": 1.0, "layer": 0}
SIDE = 8  # pixels of a patch


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def drawn(shape, seed=0, colours=3, side=SIDE):
    """Pictures (B, 3, H, W) whose patches have one of a few contents."""
    n, channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    contents = torch.randn(colours, channels, side, side, generator=generator)
    numbers = torch.randint(0, colours + 2, (n, height // side, width // side), generator=generator)
    return contents[numbers.clamp(max=colours - 1)].permute(0, 3, 1, 4, 2, 5).reshape(shape)


def expected(picture, side=SIDE):
    """Kept patches of a picture (3, H, W), from its pixels alone."""
    tiles = picture.unfold(1, side, side).unfold(2, side, side)  # (3, h, w, side, side)
    return duplicates.kept(tiles.permute(1, 2, 0, 3, 4).flatten(2)[None], 0)


NAMES = ["vit", "deit distilled", "dinov2 registers", "eva02 rotary", "siglip", "dinov3"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tower_of_timm_runs_on_the_patches_that_are_no_duplicates(name):
    model = timm_model(name)
    x = drawn(pictures(1).shape)
    kept = expected(x[0])
    assert 3 < len(kept) < 36
    with tokenprune.apply(model, **DUPLICATES) as handle:
        pruned = model(x)
        (image,) = handle.last.images
    assert image.kept.tolist() == kept and image.cuts == {0: len(kept)}
    torch.testing.assert_close(pruned, tower_by_hand.timm_model(model, x, 0, image.kept), **TOLERANCE)


def test_so_does_that_of_open_clip():
    model = clip("native")
    x = drawn(clip_pictures("native", 1).shape)
    with tokenprune.apply(model, **DUPLICATES) as handle:
        pruned = model.encode_image(x)
        (image,) = handle.last.images
    assert image.kept.tolist() == expected(x[0])
    want = tower_by_hand.open_clip_tower(model.visual, x, 0, image.kept)
    torch.testing.assert_close(pruned, want, **TOLERANCE)


def test_a_batch_of_equal_counts_runs_and_one_of_unequal_counts_is_refused():
    model = timm_model("vit")
    many = torch.cat([drawn(pictures(1).shape, seed) for seed in range(8)])
    counts = [len(expected(picture)) for picture in many]
    first = counts.index(max(counts, key=counts.count))
    alike = [number for number, count in enumerate(counts) if count == counts[first]]
    assert len(alike) > 1 and len(set(counts)) > 1
    before = model(many)
    with tokenprune.apply(model, **DUPLICATES) as handle:
        together = model(many[alike])
        assert [image.kept.tolist() for image in handle.last.images] == [expected(many[n]) for n in alike]
        alone = torch.cat([model(many[n : n + 1]) for n in alike])
        torch.testing.assert_close(together, alone, **TOLERANCE)
        listed = ", ".join(map(str, sorted(set(counts))))
        with pytest.raises(tokenprune.UnsupportedCallError, match=f"keeps {listed} tokens .* one picture"):
            model(many)
        torch.testing.assert_close(model(many[alike]), together)
    assert torch.equal(model(many), before)


def test_a_limit_makes_counts_equal():
    model = timm_model("vit")
    many = torch.cat([drawn(pictures(1).shape, seed) for seed in range(4)])
    with tokenprune.apply(model, selector="duplicates", keep=4, layer=0) as handle:
        model(many)
        assert [image.n_after for image in handle.last.images] == [4] * 4
        for image, picture in zip(handle.last.images, many, strict=True):
            assert set(image.kept.tolist()) < set(expected(picture))


def test_pixels_are_known_before_block_0_only():
    with pytest.raises(tokenprune.IncompatibleError, match="pixels of patches, which are mixed .* layer=0"):
        tokenprune.apply(timm_model("vit"), selector="duplicates", keep=9, layer=1)


def test_pictures_that_are_padded_to_whole_patches():
    model = filled(VisionTransformer(**SMALL, dynamic_img_size=True, dynamic_img_pad=True))
    x = drawn((1, 3, 48, 48))[:, :, :44, :41]
    padded = torch.nn.functional.pad(x, (0, 7, 0, 4))
    with tokenprune.apply(model, **DUPLICATES) as handle:
        pruned = model(x)
        (image,) = handle.last.images
    assert image.kept.tolist() == expected(padded[0])
    torch.testing.assert_close(pruned, tower_by_hand.timm_model(model, x, 0, image.kept), **TOLERANCE)


def test_patches_by_hand():
    picture = torch.arange(24.0).view(1, 1, 4, 6)
    assert patches_of(picture, (2, 2), (2, 3))[0].tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]
    assert patches_of(picture, (1, 2), (3, 2))[0].tolist() == [[0, 1, 6, 7, 12, 13], [2, 3, 8, 9, 14, 15]]
    beyond = patches_of(picture, (1, 2), (4, 4))[0, 1].view(4, 4)
    assert beyond.tolist() == [[4, 5, 0, 0], [10, 11, 0, 0], [16, 17, 0, 0], [22, 23, 0, 0]]


def test_patches_made_otherwise_have_no_pixels():
    model = copy.deepcopy(timm_model("vit"))
    model.patch_embed.proj = torch.nn.Conv2d(3, 16, 8, stride=8, padding=1)
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    assert "pixels" not in adapter.provides["vision"]
