# SPDX-License-Identifier: Apache-2.0
"""Rows that are merged in vision towers, and before and in language models, against merging in loops."""

import compatibility
import pytest
import torch
from reference import tome as reference
from tiny_towers import N, clip, pictures, timm_model

import tokenprune

TOLERANCE = {"atol": 5e-5, "rtol": 5e-4}
ABSORB = {"scorer": "uniform", "selector": "diverse", "reducer": "absorb"}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


class TimmByHand:
    """A timm tower, one picture at a time."""

    def __init__(self, name):
        self.model = timm_model(name)
        self.blocks, self.n_prefix = self.model.blocks, self.model.num_prefix_tokens

    def embedded(self, picture):
        embedded = self.model._pos_embed(self.model.patch_embed(picture))
        rows, self.rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        return self.model.norm_pre(rows)

    def block(self, i, rows, kept):
        return (
            self.blocks[i](rows) if self.rope is None else self.blocks[i](rows, rope=self.rope[..., kept, :])
        )

    def keys(self, i, rows):
        block, n = self.blocks[i], self.n_prefix
        key = block.attn.qkv(block.norm1(rows))[0].chunk(3, -1)[1]
        return key.view(len(key), block.attn.num_heads, -1).mean(1)[n:]

    def output(self, rows):
        return self.model.forward_head(self.model.norm(rows))


class OpenClipByHand:
    """An open_clip tower, one picture at a time."""

    n_prefix = 1

    def __init__(self, name):
        self.model = clip(name).visual
        self.blocks = self.model.transformer.resblocks

    def embedded(self, picture):
        return self.model._embeds(picture)

    def block(self, i, rows, kept):
        return self.blocks[i](rows)

    def keys(self, i, rows):
        block, width = self.blocks[i], rows.shape[-1]
        part = slice(width, 2 * width)
        weight, bias = block.attn.in_proj_weight[part], block.attn.in_proj_bias[part]
        key = torch.nn.functional.linear(block.ln_1(rows)[0], weight, bias)
        return key.view(len(key), block.attn.num_heads, -1).mean(1)[1:]

    def output(self, rows):
        return self.model._pool(rows)[0] @ self.model.proj


def tower(name):
    return OpenClipByHand("native") if name == "open_clip" else TimmByHand(name)


def run_by_hand(tower, picture, cuts):
    """Output of one picture, the patches kept, and their sizes.

    `cuts` {block: function} of the rows, a function that gives the keys of the block before, and the sizes.
    """
    rows, n = tower.embedded(picture), tower.n_prefix
    before = rows
    kept, sizes = list(range(N)), [1] * N
    for i in range(len(tower.blocks)):
        if i in cuts:
            chosen, merged, sizes = cuts[i](
                rows[0, n:], lambda i=i, rows=before: tower.keys(i - 1, rows), sizes
            )
            kept = [kept[slot] for slot in chosen]
            rows = torch.cat([rows[:, :n], torch.as_tensor(merged).float()[None]], 1)
        before = rows
        rows = tower.block(i, rows, torch.tensor(kept))
    return tower.output(rows), kept, sizes


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2 registers", "eva02 rotary", "open_clip"])
def test_absorbed_rows_go_on_in_the_places_of_kept_patches(name):
    by_hand, x = tower(name), pictures()
    model = by_hand.model
    with tokenprune.apply(model, **ABSORB, keep=9, layer=2) as handle:
        got, images = model(x), handle.last.images
    got = got[0] if isinstance(got, tuple) else got
    for row, image in enumerate(images):
        kept = image.kept.tolist()
        assert kept == sorted(set(kept)) and len(kept) == 9 and min(kept) >= 0
        cuts = {2: lambda rows, keys, sizes, kept=kept: (kept, reference.absorbed(rows, kept), sizes)}
        want, _, _ = run_by_hand(by_hand, x[row : row + 1], cuts)
        torch.testing.assert_close(got[row : row + 1], want, **TOLERANCE)


def merging(keep):
    """A cut by one step of ToMe."""

    def cut(rows, keys, sizes):
        groups = reference.tome(keys(), keep, sizes)
        return (sorted(groups), *reference.merged(rows, groups, sizes))

    return cut


@pytest.mark.parametrize("name", ["vit", "siglip", "dinov2 registers", "open_clip"])
@pytest.mark.parametrize(("keep", "cuts"), [(18, {1: 30, 2: 24, 3: 18}), (3, {1: 25, 2: 14, 3: 3})])
def test_tome_merges_before_every_block_with_the_sizes_so_far(name, keep, cuts):
    by_hand, x = tower(name), pictures()
    with tokenprune.apply(by_hand.model, method="tome", keep=keep) as handle:
        got, images = by_hand.model(x), handle.last.images
    got = got[0] if isinstance(got, tuple) else got
    for row, image in enumerate(images):
        assert image.cuts == cuts
        steps = {i: merging(left) for i, left in cuts.items()}
        want, kept, sizes = run_by_hand(by_hand, x[row : row + 1], steps)
        assert image.kept.tolist() == kept and sum(sizes) == N and max(sizes) > 2
        torch.testing.assert_close(got[row : row + 1], want, **TOLERANCE)


class Watching(tokenprune.Selector):
    """Keeps the first tokens, pairs the last with the first if told to, and notes the sizes."""

    name = "watching"
    needs = frozenset({"sizes"})

    def __init__(self, pairs):
        self.pairs, self.seen = pairs, []

    def select(self, tokens, scores, keep):
        self.seen.append(tokens.signal("sizes").tolist())
        slots = torch.arange(len(tokens))
        into = torch.where(slots < keep, slots, torch.where(slots == len(tokens) - 1, 0, -1))
        return tokenprune.Selection(slots[:keep], merged_into=into if self.pairs else None)


def test_sizes_count_the_patches_merged_and_not_those_dropped():
    model, x = timm_model("vit"), pictures(1)
    seen = {}
    for pairs, reducer in ((True, "merge"), (True, None), (False, None), (False, "pool")):
        selector = Watching(pairs)
        method = tokenprune.Method(
            "m",
            selector=selector,
            reducer=reducer,
            stage="vision",
            schedule=tokenprune.ExplicitSchedule((1, 2, 3), (5, 3, 2)),
        )
        with tokenprune.apply(model, method=method, keep=2):
            model(x)
        seen[pairs, reducer] = selector.seen
    ones = [[1] * N, [1] * 5, [1] * 3]
    assert seen.pop((True, "merge")) == [[1] * N, [2, 1, 1, 1, 1], [3, 1, 1]]
    assert all(sizes == ones for sizes in seen.values())


def rows_entering(model, inputs, layer):
    """Rows (L, D) that enter a layer of the language model."""
    seen = []

    def see(module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    hook = model.model.language_model.layers[layer].register_forward_pre_hook(see, with_kwargs=True)
    model(**inputs)
    hook.remove()
    return seen[0][0]


@pytest.mark.parametrize("name", ["llava", "qwen", "internvl"])
@pytest.mark.parametrize("layer", [None, 2])
def test_absorbed_rows_enter_the_language_model_too(name, layer):
    model, inputs = compatibility.model_and_inputs(name)
    whole = rows_entering(model, inputs, layer or 0)
    with tokenprune.apply(model, **ABSORB, keep=6, layer=layer) as handle:
        rows, (image,) = rows_entering(model, inputs, layer or 0), handle.last.images
    n, kept = image.n_before, image.kept.tolist()
    start = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero()[0])
    merged = torch.from_numpy(reference.absorbed(whole[start : start + n], kept)).float()
    torch.testing.assert_close(rows[start : start + 6], merged, **TOLERANCE)
    assert len(rows) == len(whole) - n + 6
