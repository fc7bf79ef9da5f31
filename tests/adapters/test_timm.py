# SPDX-License-Identifier: Apache-2.0
"""timm's vision transformers, pruned: identity, exactness, every way to run them, refusals."""

import pytest
import timm
import torch
from reference import tower_by_hand
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from tiny_towers import SMALL, TIMM, N, filled, pictures, timm_model

import tokenprune

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
RECEIVED = tokenprune.scorer("attention", source="received")
PARTS = [
    {"scorer": "uniform", "selector": "diverse"},
    {"scorer": RECEIVED, "selector": "diverse"},
    {"scorer": "zoo-exact", "selector": "topk"},
]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def trace(model):
    """Whatever a pruning could leave behind."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m))) for m in model.modules()]
    return hooks, [type(m) for m in model.modules()], [id(p) for p in model.parameters()]


@pytest.mark.parametrize("name", TIMM)
def test_keeping_everything_and_removal_are_bit_identical_and_leave_no_trace(name):
    model, x = timm_model(name), pictures()
    before, untouched = model(x), trace(model)
    with tokenprune.apply(model, scorer=RECEIVED, keep=N, layer=2) as handle:
        assert torch.equal(model(x), before)
        assert [(i.n_before, i.n_after, i.note) for i in handle.last.images] == [
            (N, N, "budget not below N")
        ] * 3
        assert handle.last.images[0].kept is None
    assert trace(model) == untouched
    handle = tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=2)
    pruned = model(x)
    assert pruned.shape != before.shape or not torch.allclose(pruned, before, atol=1e-4)
    handle.remove()
    handle.remove()
    assert torch.equal(model(x), before)
    assert trace(model) == untouched


@pytest.mark.parametrize(
    "parts", PARTS, ids=lambda parts: str(getattr(parts["scorer"], "name", parts["scorer"]))
)
@pytest.mark.parametrize("name", TIMM)
def test_a_pruned_run_equals_the_blocks_by_hand_on_the_kept_tokens(name, parts):
    model, x = timm_model(name), pictures()
    with tokenprune.apply(model, **parts, keep=9, layer=2) as handle:
        got = model(x)
        images = handle.last.images
    assert [image.row for image in images] == [0, 1, 2]
    assert len({tuple(image.kept.tolist()) for image in images}) > 1  # each picture its own
    for row, image in enumerate(images):
        assert (image.n_before, image.n_after, image.cuts) == (N, 9, {2: 9})
        assert image.layout.grid == (1, 6, 6)
        want = tower_by_hand.timm_model(model, x[row : row + 1], 2, image.kept)
        torch.testing.assert_close(got[row : row + 1], want, **TOLERANCE)


@pytest.mark.parametrize("name", ["vit", "deit distilled", "dinov2 registers", "eva02 rotary", "siglip"])
def test_a_picture_is_cut_the_same_whatever_is_beside_it(name):
    model, x = timm_model(name), pictures(4)
    with tokenprune.apply(model, scorer=RECEIVED, selector="diverse", keep=9, layer=2) as handle:
        together, images = model(x), handle.last.images
        for row in range(4):
            torch.testing.assert_close(model(x[row : row + 1])[0], together[row], **TOLERANCE)
            assert torch.equal(handle.last.images[0].kept, images[row].kept)


@pytest.mark.parametrize("name", ["vit", "eva rotary a block", "dinov3"])
def test_a_schedule_cuts_again_and_again(name):
    model, x = timm_model(name), pictures()
    with tokenprune.apply(model, scorer=RECEIVED, schedule={1: 20, 3: 6}) as handle:
        got, images = model(x), handle.last.images
    assert images[0].cuts == {1: 20, 3: 6} and images[0].rows_entering(4) == [36, 20, 20, 6]
    with tokenprune.apply(model, scorer=RECEIVED, keep=20, layer=1) as handle:
        model(x)
        early = [image.kept for image in handle.last.images]
    for row in range(3):
        assert set(images[row].kept.tolist()) < set(early[row].tolist())
        rows = by_two_cuts(model, x[row : row + 1], early[row], images[row].kept)
        torch.testing.assert_close(got[row : row + 1], rows, **TOLERANCE)


def by_two_cuts(model, picture, early, late):
    """Blocks by hand: all tokens before block 1, `early` in 1 and 2, `late` in block 3."""
    embedded = model._pos_embed(model.patch_embed(picture))
    rows, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
    rows, n = model.norm_pre(rows), model.num_prefix_tokens
    for i, block in enumerate(model.blocks):
        kept = torch.arange(N) if i == 0 else early if i < 3 else late
        if i == 1:
            rows = torch.cat([rows[:, :n], rows[:, n + early]], 1)
        if i == 3:
            where = torch.tensor([early.tolist().index(slot) for slot in late.tolist()])
            rows = torch.cat([rows[:, :n], rows[:, n + where]], 1)
        own = rope[i] if getattr(model, "rope_mixed", False) else rope
        rows = block(rows) if rope is None else block(rows, rope=own[..., kept, :])
    return model.forward_head(model.norm(rows))


ODD = {
    "vit_base_patch16_rpn_224": True,  # norms after attention
    "vit_small_patch16_18x2_224": False,  # two attentions side by side
    "vit_base_patch16_xp_224": False,  # attention beside the MLP
    "vit_dwee_patch16_reg1_gap_256": False,  # the difference of two attentions
    "vit_tiny_r_s16_p8_224": True,  # patches of a convolutional network's features
}


@pytest.mark.parametrize("name", ODD)
def test_other_blocks_are_exact_too_and_attention_is_read_only_where_it_is_known(name):
    model = filled(timm.create_model(name, img_size=96, depth=3, embed_dim=48, num_heads=4, num_classes=5))
    x = pictures(2, side=96)
    with tokenprune.apply(model, method="divprune", keep=4, layer=2) as handle:
        got, kept = model(x), handle.last.images[1].kept
    torch.testing.assert_close(got[1:], tower_by_hand.timm_model(model, x[1:], 2, kept), **TOLERANCE)
    if ODD[name]:
        tokenprune.apply(model, scorer=RECEIVED, keep=4, layer=2).remove()
    else:
        with pytest.raises(tokenprune.IncompatibleError, match="received_attention"):
            tokenprune.apply(model, scorer=RECEIVED, keep=4, layer=2)


def test_every_method_this_stage_can_serve_keeps_its_budget():
    model, x, served = timm_model("vit"), pictures(), []
    for method in tokenprune.list_methods():
        try:
            handle = tokenprune.apply(model, method=method, keep=9, layer=2)
        except tokenprune.IncompatibleError:
            continue
        with handle:
            model(x)
            assert {image.n_after for image in handle.last.images} == {9}
        served.append(method)
    assert {"zoo-exact", "zoo-prune", "divprune", "vispruner", "stride", "pool"} <= set(served)


def test_merged_rows_go_on_in_the_places_of_dropped_tokens():
    model, x = timm_model("eva02 rotary"), pictures(1)
    with tokenprune.apply(model, method="pool", keep=9, layer=2) as handle:
        pooled, image = model(x), handle.last.images[0]
    assert image.kept.tolist() == [-1] * 9
    assert torch.isfinite(pooled).all()
    rows = tower_rows(model, x, 2)
    grid = rows[:, 1:].view(3, 2, 3, 2, 32).mean((1, 3)).view(1, 9, 32)  # the mean of 2 x 2 patches
    torch.testing.assert_close(image.selection.features[None], grid, **TOLERANCE)


def tower_rows(model, picture, layer):
    """Rows entering a block, nothing dropped."""
    seen = []
    hook = model.blocks[layer].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(picture)
    hook.remove()
    return seen[0]


# -- every way to run it


@pytest.mark.parametrize("name", TIMM)
def test_forward_features_gives_prefix_and_kept_tokens(name):
    model, x = timm_model(name), pictures()
    with tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=2) as handle:
        features = model.forward_features(x)
        kept = handle.last.images[1].kept
        torch.testing.assert_close(model.forward_head(features), model(x))
    assert features.shape == (3, model.num_prefix_tokens + 9, 32)
    want = model.norm(tower_by_hand.timm_rows(model, x[1:2], 2, kept))
    torch.testing.assert_close(features[1:2], want, **TOLERANCE)


@pytest.mark.parametrize("name", ["vit", "dinov2 registers", "dinov3", "siglip"])
def test_forward_intermediates_refuses_a_grid_of_what_is_gone(name):
    model, x = timm_model(name), pictures()
    whole = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    with tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=2) as handle:
        for indices in (None, 1, [0, 2], [-1]):
            with pytest.raises(tokenprune.UnsupportedCallError, match="grid.*fewer tokens than patches"):
                model.forward_intermediates(x, indices=indices)
        assert handle.last is None  # refused before anything ran
        early = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
        rows = model.forward_intermediates(x, indices=[1, 3], output_fmt="NLC", intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(early, whole, strict=True))
    assert [one.shape[1] for one in rows] == [N, 9]
    with tokenprune.apply(model, scorer=RECEIVED, keep=N, layer=2):
        assert len(model.forward_intermediates(x, intermediates_only=True)) == 4


def test_get_intermediate_layers_follows():
    model, x = timm_model("vit"), pictures()
    with tokenprune.apply(model, method="stride", keep=9, layer=2):
        assert model.get_intermediate_layers(x, n=2)[1].shape == (3, 9, 32)
        with pytest.raises(tokenprune.UnsupportedCallError):
            model.get_intermediate_layers(x, n=2, reshape=True)


def test_other_picture_sizes_of_a_dynamic_model():
    model, x = timm_model("dinov2 registers"), pictures(2, side=64)
    with tokenprune.apply(model, scorer=RECEIVED, keep_ratio=0.25, layer=2) as handle:
        got, image = model(x), handle.last.images[1]
    assert (image.layout.grid, image.n_after) == ((1, 8, 8), 16)
    torch.testing.assert_close(got[1:2], tower_by_hand.timm_model(model, x[1:2], 2, image.kept), **TOLERANCE)


def test_a_cut_before_the_first_block():
    model, x = timm_model("eva02 rotary"), pictures()
    with tokenprune.apply(model, method="divprune", keep=9, layer=0) as handle:
        got, image = model(x), handle.last.images[2]
    torch.testing.assert_close(got[2:], tower_by_hand.timm_model(model, x[2:], 0, image.kept), **TOLERANCE)


def test_gradients_flow_through_the_kept_tokens():
    model, x = timm_model("vit"), pictures()
    with tokenprune.apply(model, method="stride", keep=9, layer=2), torch.enable_grad():
        model(x).square().sum().backward()
    positions = model.pos_embed.grad
    assert positions.isfinite().all() and (positions.abs().sum(-1) > 0).all()  # dropped ones: blocks 0 and 1
    model.zero_grad()


def test_few_tokens_are_left_alone():
    model, x = timm_model("vit"), pictures()
    want = model(x)
    with tokenprune.apply(model, method="stride", keep=9, layer=2, min_tokens=N + 1) as handle:
        assert torch.equal(model(x), want)
        assert handle.last.images[0].note == "fewer than 37 tokens"


def test_half_precision():
    model, x = filled(VisionTransformer(**SMALL)).bfloat16(), pictures().bfloat16()
    with tokenprune.apply(model, scorer="zoo-exact", selector="diverse", keep=9, layer=2) as handle:
        got, image = model(x), handle.last.images[0]
    assert got.dtype == torch.bfloat16 and image.scores.dtype == torch.float32
    want = tower_by_hand.timm_model(model, x[:1], 2, image.kept)
    torch.testing.assert_close(got[:1], want, atol=0.1, rtol=0.05)


# -- torch.compile


SHALLOW = SMALL | {"depth": 2}  # compiling takes its time


@pytest.mark.parametrize("compiled_first", [True, False])
def test_compiled_code_follows_pruning_and_removal(dynamo, compiled_first):
    model, x = filled(Eva(**SHALLOW, use_rot_pos_emb=True)), pictures()
    before = model(x)
    compiled = torch.compile(model, backend="eager")
    if compiled_first:
        torch.testing.assert_close(compiled(x), before)
    with tokenprune.apply(model, scorer=RECEIVED, keep=9, layer=1) as handle:
        pruned, kept = model(x), handle.last.images[1].kept
        torch.testing.assert_close(compiled(x), pruned)
        assert torch.equal(handle.last.images[1].kept, kept)
        torch.testing.assert_close(compiled(x[:2]), pruned[:2])
        assert len(handle.last.images) == 2
    torch.testing.assert_close(compiled(x), before)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), before)


def test_compiled_models_are_refused(dynamo):
    model = filled(VisionTransformer(**SMALL))
    with pytest.raises(tokenprune.UnsupportedModelError, match="compiled.*to the model itself"):
        tokenprune.apply(torch.compile(model), method="stride", keep=9, layer=2)
    model.blocks[1].compile()
    with pytest.raises(tokenprune.UnsupportedModelError, match="compiled"):
        tokenprune.apply(model, method="stride", keep=9, layer=2)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_pruned_tower_is_not_recorded_as_a_graph(dynamo):
    model, x = timm_model("vit"), pictures()
    want = model(x)
    with tokenprune.apply(model, scorer="attention", keep=9, layer=2):
        for record in (
            lambda: timm.models.create_feature_extractor(model, ["blocks.1.add_1"]),
            lambda: torch.export.export(model, (x,)),
            lambda: torch.jit.trace(model, x),
        ):
            with pytest.raises(tokenprune.UnsupportedCallError, match="traced or exported.*remove"):
                record()
        assert model(x).shape == want.shape
    extractor = timm.models.create_feature_extractor(model, ["blocks.1.add_1", "head"])
    assert torch.equal(extractor(x)["head"], want)


# -- refusals


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}, "windows"),
        ("swinv2_tiny_window8_256", {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}, "windows"),
        (
            "convnext_atto",
            {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
            r"hierarchical.*\(4, 8, 16, 32 pixels",
        ),
        ("samvit_base_patch16", {"depth": 2, "embed_dim": 32, "num_heads": 2}, "windows"),
        ("beit_base_patch16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2}, "relative positions"),
        ("vit_relpos_base_patch16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2}, "relative positions"),
        ("naflexvit_base_patch16_gap", {"depth": 2, "embed_dim": 32, "num_heads": 2}, "does not know it"),
        ("test_vit", {"features_only": True}, "features_only"),
    ],
)
def test_models_that_cannot_lose_tokens_are_refused_by_name(name, options, reason):
    model = timm.create_model(name, **options)
    with pytest.raises(tokenprune.UnsupportedModelError, match=f"timm's {type(model).__name__} .*{reason}"):
        tokenprune.apply(model, method="stride", keep=9, layer=1)


def test_pooling_with_a_position_for_every_token_is_refused():
    model = filled(TIMM["siglip"]())
    model.attn_pool.pos_embed = torch.nn.Parameter(torch.zeros(N, 32))
    with pytest.raises(tokenprune.UnsupportedModelError, match="attention pooling adds a position"):
        tokenprune.apply(model, method="stride", keep=9, layer=2)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("vit", {"keep": 9}, r"where to cut this VisionTransformer; give layer=.*0 \.\.\. 3"),
        ("vit", {"keep": 9, "method": "fastv"}, "cuts at the stage 'decoder'"),
        ("vit", {"keep": 9, "scorer": "attention", "layer": 0}, "none before block 0"),
        ("vit", {"keep": 9, "layer": 4}, "0 ... 3, the model has 4 layers"),
        ("vit", {"keep": 9, "layer": 2, "method": "fastv"}, "attention_rows"),
        ("vit", {"keep": 9, "layer": 2, "method": "visionzip"}, "use no reducer"),
        ("vit", {"keep": 9, "layer": 2, "positions": "contiguous"}, "allows: original"),
        ("siglip", {"keep": 9, "layer": 2, "scorer": "attention"}, "cls_attention"),
        ("eva absolute", {"keep": [9, 4], "method": ["divprune", "stride"]}, "where to cut"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_model_is_touched(name, arguments, sentence):
    model = timm_model(name)
    untouched = trace(model)
    with pytest.raises(tokenprune.IncompatibleError, match=sentence):
        tokenprune.apply(model, **arguments)
    assert trace(model) == untouched


def test_an_average_below_what_the_first_blocks_see_is_refused_at_once():
    with pytest.raises(tokenprune.BudgetError, match="before the first cut"):
        tokenprune.apply(timm_model("vit"), method="stride", keep=9, layer=2, budget="average")


def test_calls_that_cannot_be_honoured_are_refused_and_the_next_one_is_right():
    model, x = filled(VisionTransformer(**SMALL, patch_drop_rate=0.5)), pictures()
    with tokenprune.apply(model, method="stride", keep=9, layer=2):
        want = model(x)
        with pytest.raises(tokenprune.UnsupportedCallError, match="attn_mask"):
            model(x, attn_mask=torch.zeros(N + 1, N + 1))
        with pytest.raises(tokenprune.UnsupportedCallError, match="is_causal"):
            model(x, is_causal=True)
        model.train()
        with pytest.raises(tokenprune.UnsupportedCallError, match="19 tokens instead of 37"):
            model(x)
        model.eval()
        model.set_grad_checkpointing(True)
        with pytest.raises(tokenprune.UnsupportedCallError, match="checkpointing"), torch.enable_grad():
            model(x)
        assert torch.equal(model(x), want)  # without gradients nothing is run twice


def test_a_model_is_pruned_once():
    model = timm_model("vit")
    with tokenprune.apply(model, method="stride", keep=9, layer=2):
        with pytest.raises(tokenprune.AlreadyPrunedError):
            tokenprune.apply(model, method="stride", keep=9, layer=2)
