# SPDX-License-Identifier: Apache-2.0
"""What strategies see inside a tower: each signal against the model's own attention and output."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from tiny_towers import TIMM, N, clip, clip_pictures, filled, pictures, timm_model

import tokenprune
from tokenprune.testing import check_adapter

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
ATTENTION = frozenset({"cls_attention", "received_attention", "key_metric"})
HEAD = frozenset({"pre_features", "projector", "cls_hidden"})


@dataclass(frozen=True)
class Spy(tokenprune.Scorer):
    """Asks for signals and writes them down."""

    name: ClassVar[str] = "spy"
    batched: ClassVar[bool] = True
    wanted: frozenset = ATTENTION | HEAD
    seen: dict = field(default_factory=dict, compare=False)

    @property
    def needs(self):
        return self.wanted

    def score(self, tokens):
        self.seen.update({name: tokens.signal(name) for name in self.wanted}, features=tokens.features)
        return torch.zeros(tokens.features.shape[:-1])


@dataclass(frozen=True)
class SpyAlone(Spy):
    """The same, a picture at a time."""

    name: ClassVar[str] = "spy-alone"
    batched: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def spied(model, run, layer=2, spy=Spy, **options):
    spy = spy(**options)
    with tokenprune.apply(model, scorer=spy, keep=9, layer=layer):
        run()
    return spy.seen


def own_probabilities(model, attention, run):
    """(B, H, L, L) as a timm attention module computes them itself, without the fused kernel."""
    seen, attention.fused_attn = [], False
    hook = attention.attn_drop.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run()
    hook.remove()
    attention.fused_attn = True
    return seen[0]


WITH_CLASS = ["vit qk-norm", "deit distilled", "dinov2 registers", "eva02 rotary", "dinov3", "eva grouped"]


@pytest.mark.parametrize("name", [*WITH_CLASS, "siglip"])
def test_attention_is_that_of_the_block_before_the_cut(name):
    model, x = timm_model(name), pictures()
    n, has_class = model.num_prefix_tokens, model.cls_token is not None
    wanted = ATTENTION if has_class else ATTENTION - {"cls_attention"}
    seen = spied(model, lambda: model(x), wanted=wanted)
    want = own_probabilities(model, model.blocks[1].attn, lambda: model(x))
    torch.testing.assert_close(seen["received_attention"], want[:, :, n:].mean((1, 2))[:, n:], **TOLERANCE)
    if has_class:
        torch.testing.assert_close(seen["cls_attention"], want[:, :, 0, n:], **TOLERANCE)
        assert seen["cls_attention"].shape == (3, 4, N)
    assert seen["key_metric"].shape == (3, N, 8)


@pytest.mark.parametrize("name", ["native", "native qk-norm"])
def test_attention_in_open_clip(name):
    model, x, caught = clip(name), clip_pictures(name), []
    seen = spied(model, lambda: model.encode_image(x))
    block = model.visual.transformer.resblocks[1]
    hook = block.ln_1.register_forward_hook(lambda module, args, output: caught.append(output))
    model.encode_image(x)
    hook.remove()
    rows, attention = caught[0], block.attn
    projected = torch.nn.functional.linear(rows, attention.in_proj_weight, attention.in_proj_bias)
    query, key, _ = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in projected.chunk(3, -1))
    if name == "native":
        want = attention(rows, rows, rows, average_attn_weights=False)[1]
    else:
        query, key = attention.ln_q(query), attention.ln_k(key)
        want = (query @ key.mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(seen["cls_attention"], want[:, :, 0, 1:], **TOLERANCE)
    torch.testing.assert_close(seen["received_attention"], want[:, :, 1:].mean((1, 2))[:, 1:], **TOLERANCE)
    torch.testing.assert_close(seen["key_metric"], key.mean(1)[:, 1:], **TOLERANCE)


def test_features_are_the_patches_entering_the_block_and_one_at_a_time_sees_the_same():
    model, x, rows = timm_model("deit distilled"), pictures(), []
    hook = model.blocks[2].register_forward_pre_hook(lambda module, args: rows.append(args[0]))
    model(x)
    hook.remove()
    together, alone = spied(model, lambda: model(x)), spied(model, lambda: model(x), spy=SpyAlone)
    assert torch.equal(together["features"], rows[0][:, 2:])
    assert torch.equal(together["cls_hidden"], rows[0][:, :1])
    centred = rows[0][:, 2:] - rows[0][:, 2:].mean(-1, keepdim=True)
    assert torch.equal(together["pre_features"], centred)
    for name in (ATTENTION | HEAD | {"features"}) - {"projector"}:
        assert torch.equal(alone[name], together[name][2]), name


@pytest.mark.parametrize(
    "name", ["vit average", "siglip", "eva absolute", "deit distilled", "dinov2 registers"]
)
def test_the_projector_is_the_output_of_a_picture_that_has_this_token_only(name):
    model, x = timm_model(name), pictures()
    wanted = frozenset({"pre_features", "projector"})
    seen = spied(model, lambda: model(x), wanted=wanted)
    rows = seen["features"][0, :5]
    n = model.num_prefix_tokens
    # the token stands where the pooling looks: as the class token(s), or as the only patch
    picture = rows.unsqueeze(1).expand(-1, n + 1, -1)
    want = model.forward_head(model.norm(picture))
    got = seen["projector"](seen["pre_features"][0, :5])
    torch.testing.assert_close(got, want, **TOLERANCE)


@pytest.mark.parametrize("name", ["native", "timm siglip", "timm average"])
def test_the_projector_leads_to_the_joint_space_of_a_clip(name):
    model, x = clip(name), clip_pictures(name)
    seen = spied(model, lambda: model.encode_image(x), wanted=frozenset({"pre_features", "projector"}))
    assert seen["projector"](seen["pre_features"][0]).shape[-1] == model.encode_image(x).shape[-1]
    if name == "native":
        want = model.visual.ln_post(seen["features"][0]) @ model.visual.proj
        torch.testing.assert_close(seen["projector"](seen["pre_features"][0]), want, **TOLERANCE)


@pytest.mark.parametrize("name", ["vit", "vit average", "deit distilled", "dinov2 registers", "siglip"])
def test_zoo_exact_is_the_jacobian_of_that_map(name):
    """Closed form or not, against autograd at the rows as they are (not centred)."""
    model, x = timm_model(name), pictures(1)
    with tokenprune.apply(model, scorer="zoo-exact", keep=9, layer=2) as handle:
        model(x)
        scores = handle.last.images[0].scores
    rows = spied(model, lambda: model(x), wanted=frozenset())["features"]
    n = model.num_prefix_tokens

    def output(row):
        return model.forward_head(model.norm(row.expand(1, n + 1, -1)))[0]

    with torch.enable_grad():
        want = [torch.autograd.functional.jacobian(output, row).norm() / 32**0.5 for row in rows]
    torch.testing.assert_close(scores, torch.stack(want), atol=1e-5, rtol=1e-3)


def test_the_map_is_made_once_and_anew_when_its_weights_change():
    model, x = filled(timm_with_classes(7)), pictures(1)
    spy = Spy(wanted=frozenset({"projector"}))
    with tokenprune.apply(model, scorer=spy, keep=9, layer=2):
        model(x)
        first = spy.seen["projector"]
        model(x)
        assert spy.seen["projector"] is first
        model.norm.weight.mul_(2)
        model(x)
        assert spy.seen["projector"] is not first
    with tokenprune.apply(model, scorer="zoo-exact", keep=9, layer=2) as handle:
        model(x)
        before = handle.last.images[0].scores
        model.head.weight.mul_(2)
        model(x)
        torch.testing.assert_close(handle.last.images[0].scores, 2 * before)


def test_zoo_exact_with_more_outputs_than_inputs():
    model, x = filled(timm_with_classes(50)), pictures(1)
    with tokenprune.apply(model, scorer="zoo-exact", keep=9, layer=2) as handle:
        model(x)
        exact = handle.last.images[0].scores
    with tokenprune.apply(
        model, scorer=tokenprune.scorer("zoo", n_directions=512), keep=9, layer=2
    ) as handle:
        model(x)
        sampled = handle.last.images[0].scores
    assert torch.corrcoef(torch.stack([exact, sampled]))[0, 1] > 0.98


def timm_with_classes(n):
    model = TIMM["vit"]()
    model.reset_classifier(n)
    return model


def test_adapters_keep_the_contract():
    registry = tokenprune.default_registry()
    check_adapter(registry.find("adapter", "timm"), timm_model("vit"))
    check_adapter(registry.find("adapter", "open_clip"), clip("native"))
    check_adapter(registry.find("adapter", "open_clip"), clip("timm siglip"))


def test_looking_adapters_up_imports_neither_library():
    code = (
        "import sys, torch, tokenprune\n"
        "assert {'timm', 'open_clip'} <= set(tokenprune.list_adapters())\n"
        "try: tokenprune.apply(torch.nn.Identity(), keep=1)\n"
        "except tokenprune.UnsupportedModelError: print({'timm', 'open_clip'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr
