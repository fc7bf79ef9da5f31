# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest
import torch

import tokenprune
from tokenprune import Budget, Layout, VisualTokens, batch, stack
from tokenprune.testing import example_tokens

METHODS = tokenprune.list_methods()


def same(one, other):
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        assert (first is None) == (second is None)
        if first is not None:
            torch.testing.assert_close(first, second)


def test_a_stack_holds_each_images_signals_and_gives_them_back():
    images = [example_tokens(seed=seed) for seed in (1, 2)]
    together = stack.stack(images)
    for number, image in enumerate(images):
        alone = stack.image_of(together, number)
        assert torch.equal(together.features[number], image.features)
        for of in (lambda name, i=number: together.signal(name)[i], alone.signal):
            assert torch.equal(of("cls_attention"), image.signal("cls_attention"))
        assert torch.equal(together.signal("keys")(2)[number], image.signal("keys")(2))
        assert alone.signal("projector") is together.signal("projector") is images[0].signal("projector")
        assert (alone.layer, alone.layout) == (image.layer, image.layout)


def test_signals_are_stacked_only_when_asked_for():
    def asked():
        raise AssertionError("nobody asked")

    together = stack.stack([VisualTokens(torch.ones(3, 2), {"pre_features": asked}) for _ in range(2)])
    assert together.provides == {"pre_features"}
    with pytest.raises(AssertionError, match="nobody asked"):
        together.signal("pre_features")


@pytest.mark.parametrize("name", METHODS)
def test_choosing_for_many_is_choosing_for_each(name):
    images = [example_tokens(seed=seed) for seed in range(5)]
    images.insert(2, example_tokens(n=12, seed=9))
    keeps = [6, Budget(6), 6, 6, Budget(keep_ratio=0.5), 30]
    method = tokenprune.method(name)
    found = batch.select_all(method, images, keeps, layer=2)
    for image, keep, selection in zip(images, keeps, found, strict=True):
        same(selection, method.select(image, keep, layer=2))


class Counting(tokenprune.Selector):
    """Keeps the first tokens and notes the shapes it is given."""

    name = "counting"
    batched = True

    def __init__(self):
        self.shapes = []

    def select(self, tokens, scores, keep):
        self.shapes.append(tuple(tokens.features.shape))
        return tokenprune.Selection.from_order(torch.arange(keep).expand(*tokens.features.shape[:-2], keep))


def test_equal_images_and_budgets_go_together(monkeypatch):
    selector = Counting()
    method = tokenprune.Method("counting", scorer="uniform", selector=selector)
    grid = Layout((1, 2, 3))
    images = [VisualTokens(torch.ones(6, 2), layout=grid) for _ in range(4)]
    images += [VisualTokens(torch.ones(6, 2)), VisualTokens(torch.ones(6, 2), layout=Layout((2, 1, 3)))]
    batch.select_all(method, images, [2, 2, 2, 3, 2, 4])
    assert selector.shapes == [(3, 6, 2), (6, 2), (6, 2), (6, 2)]
    selector.shapes.clear()
    monkeypatch.setattr(stack, "STACK_TOKENS", 12)
    batch.select_all(method, images[:3], [2, 2, 2])
    assert selector.shapes == [(2, 6, 2), (6, 2)]


def test_a_part_that_takes_no_stacks_gets_one_image_at_a_time():
    selector = Counting()
    method = tokenprune.Method("counting", scorer="relevance", selector=selector)
    assert not tokenprune.scorer("relevance").batched
    batch.select_all(method, [example_tokens(seed=seed) for seed in (1, 2)], [4, 4])
    assert [len(shape) for shape in selector.shapes] == [2, 2]


def test_tiles_of_one_size_are_chosen_from_together():
    tiles = torch.tensor([0] * 6 + [1] * 4 + [2] * 6 + [3] * 6)
    layout = Layout((1, 1, 22), tiles=tiles, full_tiles=4)
    tokens = VisualTokens(torch.randn(22, 5, generator=torch.Generator().manual_seed(0)), layout=layout)
    selector = Counting()
    method = tokenprune.Method("counting", scorer="uniform", selector=selector, scope="tile")
    chosen = method.select(tokens, 8)
    assert selector.shapes == [(3, 6, 5), (4, 5)]
    assert chosen.indices.tolist() == [0, 1, 6, 7, 10, 11, 16, 17]


def test_every_field_of_a_stacked_selection_is_split():
    stacked = tokenprune.Selection(
        torch.tensor([[0, 2], [1, 2]]),
        features=torch.arange(4.0).view(2, 2, 1),
        merged_into=torch.tensor([[0, 0, 2], [1, 1, 2]]),
    )
    first, second = stack.selections_of(stacked)
    assert first.merged_into.tolist() == [0, 0, 2] and second.merged_into.tolist() == [1, 1, 2]
    assert second.indices.tolist() == [1, 2] and second.features.flatten().tolist() == [2, 3]
    assert first.order is None and first.scores is None
