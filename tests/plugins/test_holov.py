# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from reference import golden
from reference import holov as slow

import tokenprune


def tokens_of(attention, layout=None, name="cls_attention"):
    features = torch.randn(attention.shape[-1], 8, generator=torch.Generator().manual_seed(0))
    return tokenprune.VisualTokens(features, {name: attention}, layout)


def attention_of(n, seed=0, heads=3):
    return torch.randn(heads, n, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)


@pytest.mark.parametrize("name", ["holov_n64_P7_T20_overflow", "holov_n64_P8_T16"])
def test_golden_from_the_attention_of_the_heads(name):
    vectors = golden.load(name)
    signals = {"cls_attention": vectors["cls_attention"][:, 1:]}
    tokens = tokenprune.VisualTokens(vectors["features"], signals)
    method = tokenprune.method("holov", groups=int(vectors["num_patches"]), official=True)
    chosen = method.select(tokens, int(vectors["T"]))
    assert chosen.indices.tolist() == vectors["kept_sorted"].tolist()
    torch.testing.assert_close(chosen.scores, vectors["attn_mean"])
    assert method.adaptive and method.n_keep(tokens.layout, 16) is None


@pytest.mark.parametrize("keep", [1, 7, 40, 99])
def test_sixteen_runs_by_the_mean_attention_of_the_class_token(keep):
    attention = attention_of(100)
    chosen = tokenprune.method("holov").select(tokens_of(attention), keep)
    assert chosen.order.tolist() == slow.holov(attention.mean(0).tolist(), 16, keep)


def test_on_tiled_images_the_runs_are_those_of_all_patches_without_newlines():
    n = 90
    is_newline = torch.arange(n) % 10 == 9
    layout = tokenprune.Layout((1, 1, n), tiles=torch.arange(n) // 30, newlines=is_newline, full_tiles=3)
    attention = attention_of(n)
    chosen = tokenprune.method("holov").select(tokens_of(attention, layout), 25)
    patches = (~is_newline).nonzero().squeeze(1)
    among = slow.holov(attention.mean(0)[patches].tolist(), 16, 25)
    assert chosen.indices.tolist() == sorted(patches[among].tolist())


@pytest.mark.parametrize(("keep", "groups"), [(10, 17), (25, 7), (100, 1)])
def test_without_cls_the_attention_received_and_as_many_runs_as_on_qwen(keep, groups):
    received = torch.rand(100, generator=torch.Generator().manual_seed(1))
    tokens = tokens_of(received, name="received_attention")
    chosen = tokenprune.method("holov-received").select(tokens, keep)
    want = slow.holov(received.tolist(), groups, keep)
    assert chosen.indices.tolist() == sorted(want)
    by_options = tokenprune.method("holov", source="received", groups=None).select(tokens, keep)
    assert torch.equal(by_options.indices, chosen.indices)
