# SPDX-License-Identifier: Apache-2.0
import torch

import tokenprune
from tokenprune.stack import selections_of, stack
from tokenprune.testing import example_tokens

CLS_ROW = tokenprune.reducer("cls-row")


def test_by_hand():
    weight = torch.tensor([[2.0, 0.0], [0.0, -1.0]])
    hidden, rows = torch.tensor([[3.0, 5.0]]), torch.arange(8.0).view(4, 2)
    signals = {"cls_hidden": hidden, "projector": lambda x: x @ weight}
    selection = tokenprune.Selection(torch.tensor([1, 3]), scores=torch.arange(4.0))
    chosen = CLS_ROW.reduce(tokenprune.VisualTokens(rows, signals), selection, keep=3)
    assert chosen.indices.tolist() == [-1, 1, 3]
    assert chosen.features.tolist() == [[6.0, -5.0], [2.0, 3.0], [6.0, 7.0]]
    assert chosen.scores is selection.scores


def test_the_class_token_takes_one_row_unless_there_is_only_one():
    assert [CLS_ROW.n_selected(keep, 576) for keep in (1, 2, 3, 64)] == [1, 1, 2, 63]
    method = tokenprune.Method("m", scorer="uniform", selector="topk", reducer="cls-row")
    alone = method.select(example_tokens(), 1)
    assert alone.indices.tolist() == [12] and alone.features is None
    assert method.select(example_tokens(), 2).indices.tolist() == [-1, 12]


def test_when_tiles_compete_the_base_views_class_row_stands_for_all():
    tokens = example_tokens()
    signals = {name: tokens.signal(name) for name in tokens.provides}
    signals["cls_hidden"] = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    several = tokenprune.VisualTokens(tokens.features, signals)
    chosen = CLS_ROW.reduce(several, tokenprune.Selection(torch.tensor([5])), keep=2)
    torch.testing.assert_close(chosen.features[:1], tokens.projector(signals["cls_hidden"][:1]))


def test_half_precision_rows_stay_what_they_are():
    tokens = example_tokens()
    signals = {"cls_hidden": tokens.signal("cls_hidden").bfloat16(), "projector": tokens.projector}
    half = tokenprune.VisualTokens(tokens.features.bfloat16(), signals)
    chosen = CLS_ROW.reduce(half, tokenprune.Selection(torch.tensor([5, 7])), keep=3)
    assert chosen.features.dtype == torch.bfloat16
    assert torch.equal(chosen.features[1:], half.features[[5, 7]])


def test_every_image_of_a_stack_has_its_own_class_row():
    images = [example_tokens(seed=seed) for seed in range(3)]
    method = tokenprune.Method("m", scorer="attention", selector="topk", reducer="cls-row")
    together = selections_of(method.select(stack(images), 6))
    for image, chosen in zip(images, together, strict=True):
        alone = method.select(image, 6)
        assert torch.equal(chosen.indices, alone.indices)
        assert torch.equal(chosen.features[1:], alone.features[1:])
        torch.testing.assert_close(chosen.features[0], alone.features[0])
