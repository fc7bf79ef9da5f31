# SPDX-License-Identifier: Apache-2.0
"""Towers, pictures and inputs off the usual way: refused in words, left alone, or checked in part."""

import math

import open_clip
import pytest
import torch
from tiny_towers import TEXT, TIMM, TOWERS, VISION, clip, filled, pictures, text, timm_model
from tokenprune_adapters.vit.run import PictureRun
from torch import nn

import tokenprune
from tokenprune import Budget, GeometricSchedule, Method
from tokenprune.testing import check_model
from tokenprune.trial import FAILED, PASSED


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def records_of(check):
    return {record.promise: record for record in check.records}


# -- open_clip


def test_pooling_on_a_grid_is_refused():
    model = filled(open_clip.model.CLIP(24, dict(TOWERS["timm"]), dict(TEXT)))
    model.visual.head.pool = nn.Identity()  # as with timm_pool="abs_attn", for trunks with feature maps
    with pytest.raises(tokenprune.UnsupportedModelError, match="CLIP cannot .*: its pooling .* on a grid"):
        tokenprune.apply(model, method="stride", keep=9, layer=1)


def test_blocks_that_take_tokens_first_are_refused():
    model = filled(open_clip.model.CLIP(24, dict(VISION), dict(TEXT)))
    model.visual.transformer.batch_first = False
    with pytest.raises(tokenprune.UnsupportedModelError, match="its blocks take"):
        tokenprune.apply(model, method="stride", keep=9, layer=1)


def test_scaled_cosine_attention_is_not_looked_at():
    model = filled(open_clip.model.CLIP(24, VISION | {"scaled_cosine_attn": True}, dict(TEXT)))
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    plain = tokenprune.default_registry().adapter_for(clip("native"))(clip("native"))
    of_attention = {"cls_attention", "received_attention", "key_metric"}
    assert of_attention <= plain.provides["vision"] and not of_attention & adapter.provides["vision"]
    with pytest.raises(tokenprune.IncompatibleError, match="cls_attention"):
        tokenprune.apply(model, scorer="attention", keep=9, layer=2)


# -- checks


def test_inputs_without_a_picture_cannot_be_checked():
    with pytest.raises(tokenprune.UnsupportedCallError, match="no picture reaches the vision tower"):
        check_model(clip("native"), {"text": text()}, methods=["stride"], keep=9)


def test_a_tower_that_fails_unpruned_is_named_with_its_error():
    with pytest.raises(
        tokenprune.UnsupportedCallError, match=r"unpruned VisionTransformer .*\(AssertionError: "
    ):
        check_model(timm_model("vit"), torch.zeros(1, 3, 7, 7), methods=["stride"], keep=9)


@pytest.mark.parametrize("name", ["vit", "eva02 rotary"])
def test_several_cuts_are_compared_with_the_blocks_by_hand(name):
    for schedule in (GeometricSchedule((1, 2)), GeometricSchedule((2,))):
        method = Method("m", stage="vision", schedule=schedule)
        check = check_model(timm_model(name), pictures(), methods=[method], keep=9)
        records = records_of(check)
        assert check.passed
        assert records["batch"].outcome == records["exactness"].outcome == PASSED


def test_an_output_of_another_shape_is_infinitely_far_away(monkeypatch):
    original = PictureRun.cut_before
    monkeypatch.setattr(PictureRun, "cut_before", lambda *args: original(*args)[:, 1:])
    check = check_model(timm_model("vit unpooled"), pictures(), methods=["stride"], keep=9)
    record = records_of(check)["exactness"]
    assert (record.outcome, record.difference) == (FAILED, math.inf)


class Unfolding(nn.Module):
    """Patches by unfolding and a matrix, as a convolution of that size and stride makes them."""

    def __init__(self, convolution):
        super().__init__()
        self.side = convolution.kernel_size[0]
        self.linear = nn.Linear(3 * self.side**2, convolution.out_channels)
        self.linear.weight = nn.Parameter(convolution.weight.flatten(1))
        self.linear.bias = convolution.bias

    def forward(self, x):
        columns = nn.functional.unfold(x, self.side, stride=self.side)
        rows = self.linear(columns.mT).mT
        return rows.unflatten(2, (x.shape[2] // self.side, x.shape[3] // self.side))


def test_a_tower_whose_patches_no_convolution_makes_is_checked_on_pictures_that_are_given():
    model = filled(TIMM["vit"]())
    want = model(pictures())
    model.patch_embed.proj = Unfolding(model.patch_embed.proj)
    torch.testing.assert_close(model(pictures()), want)
    with pytest.raises(
        tokenprune.UnsupportedModelError, match=r"not made by a convolution.*check_model\(model, p"
    ):
        check_model(model, methods=["stride"], keep=9)
    check = check_model(model, pictures(), methods=["stride"], keep=9)
    assert check.passed, str(check)


# -- cuts


def test_a_boundary_where_nothing_is_left_to_cut_is_passed_over():
    model = timm_model("vit")
    method = Method("m", stage="vision", schedule=GeometricSchedule((1, 2, 3)))
    with tokenprune.apply(model, method=method, keep=35) as handle:
        model(pictures(1))
        (image,) = handle.last.images
    schedule = method.schedule.cuts(Budget(35).rows(36), 36, 4, "rows")
    assert image.n_after == 35 and list(image.cuts.values()) == sorted(
        {*schedule.values()} - {36}, reverse=True
    )
    assert len(image.cuts) == 1


def test_a_block_called_by_itself_loses_nothing():
    model = timm_model("vit")
    rows = torch.randn(2, 37, 32, generator=torch.Generator().manual_seed(0))
    want = model.blocks[2](rows)
    with tokenprune.apply(model, method="stride", keep=9, layer=2) as handle:
        assert torch.equal(model.blocks[2](rows), want)
        model(pictures(1))
        assert torch.equal(model.blocks[2](rows), want)
        assert handle.last.images[0].n_after == 9


def test_heads_that_no_matrix_describes_have_no_closed_form():
    """Distilled towers have two: the mean of a matrix and of a bend is none."""
    model = filled(TIMM["deit distilled"]())
    adapter = tokenprune.default_registry().adapter_for(model)(model)
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    head = adapter.tower.head
    assert head.projector().linear_form() is not None
    assert torch.equal(head.pre_features(rows), rows - rows.mean(-1, keepdim=True))
    model.head_dist = nn.Sequential(model.head_dist, nn.Tanh())
    head = tokenprune.default_registry().adapter_for(model)(model).tower.head
    assert head.projector().linear_form() is None
    assert torch.equal(head.pre_features(rows), rows)
    normed = model.norm(rows)
    torch.testing.assert_close(
        head.projector()(rows), (model.head(normed) + model.head_dist(normed)) / 2, atol=1e-5, rtol=1e-4
    )
