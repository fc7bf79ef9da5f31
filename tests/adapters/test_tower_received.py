# SPDX-License-Identifier: Apache-2.0
"""The signal `tower_received` against the attention maps of stock code under eager attention."""

import copy
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import tiny_families
import tiny_models
import torch
from family_towers import KNOWN, NAMES, TOWERS, blocks_of, model_of
from model_cases import Case
from reference.received import Maps, attention_of, tokens_in_windows
from tokenprune_adapters.transformers.tower import received as of_tower
from tokenprune_adapters.transformers.tower.received import received_sums

import tokenprune

CLOSE = {"atol": 1e-6, "rtol": 1e-4}


@dataclass(frozen=True)
class Looker(tokenprune.Scorer):
    """Writes down what the tokens of each image received in some blocks; None: in all."""

    name: ClassVar[str] = "looker"
    needs: ClassVar[frozenset] = frozenset({"tower_received", "tower_depth"})
    blocks: tuple | None = None
    seen: list = field(default_factory=list, compare=False)

    def tower_blocks(self, depth):
        return tuple(range(depth)) if self.blocks is None else self.blocks

    def score(self, tokens):
        read, depth = tokens.signal("tower_received"), tokens.signal("tower_depth")
        self.seen.append({block: read(block) for block in self.tower_blocks(depth)} | {"depth": depth})
        return torch.arange(len(tokens)).float()


def looked(model, inputs, keep=5, **options):
    looker = Looker()
    with tokenprune.apply(model, scorer=looker, keep=keep, **options) as handle:
        model(**inputs)
    return looker.seen, handle


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llava(attention):
    case = Case("llava", attention)
    inputs = case.batch()[0]
    seen, _ = looked(case.model, inputs)
    tower = Case("llava", "eager").model.model.vision_tower
    maps = tower(inputs["pixel_values"], output_attentions=True).attentions
    assert len(seen) == 3
    for number, of_image in enumerate(seen):
        assert of_image["depth"] == 2  # the last of three blocks is not projected
        for block in (0, 1):
            want = maps[block][number].mean((0, 1))  # the query of the class token is one of them
            torch.testing.assert_close(of_image[block], want[1:], **CLOSE)


def test_the_last_block_is_the_one_whose_attention_the_projected_rows_come_from():
    """LLaVA-1.5 projects hidden state -2; `attentions[-2]` is the attention of the block that made it."""
    case = Case("llava", "eager")
    inputs, tower = case.single()[0], case.model.model.vision_tower
    method = tokenprune.Method("m", scorer=tokenprune.scorer("attention", source="tower"))
    with tokenprune.apply(case.model, method=method, keep=5) as handle:
        case.model(**inputs)
        scores = handle.last.images[0].scores
    maps = tower(inputs["pixel_values"], output_attentions=True).attentions
    torch.testing.assert_close(scores, maps[-2][0].mean((0, 1))[1:], **CLOSE)
    assert case.model.config.vision_feature_layer == -2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llava_next_tile_by_tile(attention):
    case = Case("llava_next", attention)
    inputs = case.batch()[0]
    seen, handle = looked(case.model, inputs)
    inner, sizes = Case("llava_next", "eager").model.model, inputs["image_sizes"]
    assert len(seen) == len(sizes) == 3
    for number, (of_image, size) in enumerate(zip(seen, sizes, strict=True)):
        tiles = inputs["pixel_values"][number]
        tiles = tiles[tiles.abs().sum((1, 2, 3)) > 0]  # the others pad the batch
        maps = inner.vision_tower(tiles, output_attentions=True).attentions
        for block in (0, 1):
            received = maps[block].mean((1, 2))[:, 1:, None]  # (tiles, 16, 1)
            packed, _ = inner.pack_image_features([received], size[None], "default", torch.zeros(1))
            shown = packed[0].squeeze(-1)
            shown = shown[shown != 0]  # newline tokens do not compete
            torch.testing.assert_close(of_image[block], shown, **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "pictures",
    [[("I", 4, 6)], [("I", 3, 5)], [("V", 3, 2, 4)], [("I", 4, 2), ("I", 3, 5)]],
    ids=["windows", "unequal windows", "frames", "two pictures"],
)
def test_qwen_with_windows_and_without(monkeypatch, attention, pictures):
    """A query sees its window in block 0; the mean is still that over all queries of the picture."""
    case = Case("qwen", attention)
    inputs = case.inputs((3, *pictures, 5))[0]
    seen, _ = looked(case.model, inputs)
    assert [of_image["depth"] for of_image in seen] == [2] * len(pictures)
    reference = Case("qwen", "eager").model
    blocks = reference.model.visual.blocks
    maps = Maps(monkeypatch, blocks[0].attn)
    reference(**inputs)
    assert len(maps[blocks[0].attn]) > len(maps[blocks[1].attn])  # a map a window, a map a frame
    for block in (0, 1):
        sums, start = maps.sums(blocks[block].attn)[0], 0
        for of_image, picture in zip(seen, pictures, strict=True):
            t, h, w = (1, *picture[1:]) if picture[0] == "I" else picture[1:]
            n = 4 * t * h * w
            tokens = sums[start : start + n].view(-1, 4).mean(1) / (4 * h * w)  # queries of a frame
            order = torch.tensor(tokens_in_windows(t, h, w)).argsort()
            torch.testing.assert_close(of_image[block], tokens[order], **CLOSE)
            start += n


def test_in_a_block_with_full_attention_it_is_received_attention():
    case = Case("qwen")
    inputs = case.inputs((3, ("I", 4, 6), 5))[0]
    seen, _ = looked(case.model, inputs)
    method = tokenprune.Method("m", scorer=tokenprune.scorer("attention", source="received"))
    with tokenprune.apply(case.model, method=method, keep=5) as handle:
        case.model(**inputs)
        torch.testing.assert_close(seen[0][1], handle.last.images[0].scores, **CLOSE)


QWEN_LIKE = ("qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v", "qwen2_5_omni", "qwen3_omni")


@pytest.mark.parametrize("name", [name for name in QWEN_LIKE if name in KNOWN])
def test_adapters_like_that_of_qwen(monkeypatch, name):
    """Patches of a token follow each other; those of Qwen2.5 in the order of windows, of 2 x 2 tokens."""
    model, inputs = tiny_families.model(name), tiny_families.inputs(name, (2, "I", 3, "I", 2))
    seen, _ = looked(model, inputs, keep=3)
    reference = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    blocks = (getattr(reference, "visual", None) or reference.model.visual).blocks
    maps = Maps(monkeypatch, blocks[0].attn)
    reference(**inputs)
    for block in range(seen[0]["depth"]):
        start, sums = 0, maps.sums(blocks[block].attn)[0]
        for of_image, (t, h, w) in zip(seen, inputs["image_grid_thw"].tolist(), strict=True):
            part = sums[start : start + t * h * w].view(-1, 4).mean(1) / (t * h * w)
            if name == "qwen2_5_omni":
                part = part[torch.tensor(tokens_in_windows(t, h // 2, w // 2)).argsort()]
            torch.testing.assert_close(of_image[block], part, atol=1e-6, rtol=5e-4)
            start += t * h * w
        assert start == len(sums)


@pytest.mark.parametrize("name", NAMES)
def test_families_whose_tower_is_in_the_table(monkeypatch, name):
    of_table = TOWERS[name]
    model, inputs = model_of(name), tiny_families.inputs(name, (2, "I", 3))
    seen, _ = looked(model, inputs, keep=3)
    reference = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    attentions = [attention_of(block) for block in blocks_of(reference, name)]
    maps = Maps(monkeypatch, attentions[0])
    reference(**inputs)
    rows = of_table.patches + of_table.n_prefix
    for block in range(seen[0]["depth"]):
        sums = maps.sums(attentions[block])[0]
        want = sums[rows].mean(1) / len(sums)
        torch.testing.assert_close(seen[0][block], want, atol=1e-6, rtol=5e-4)


def test_pixtral_whose_mask_separates_pictures_of_one_sequence(monkeypatch):
    model = tiny_models.pixtral_llava()
    sizes, counts = [[48, 40], [24, 48]], [30, 18]
    ids = [1, *[tiny_models.IMAGE] * 30, 5, *[tiny_models.IMAGE] * 18, 6]
    inputs = tiny_models.batch([ids], torch.randn(2, 3, 48, 48)) | {"image_sizes": torch.tensor(sizes)}
    seen, _ = looked(model, inputs)
    model.set_attn_implementation("eager")
    attention = model.model.vision_tower.transformer.layers[0].attention
    maps = Maps(monkeypatch, attention)
    model(**inputs)
    parts = maps.sums(attention)[0].split(counts)
    for of_image, part in zip(seen, parts, strict=True):
        torch.testing.assert_close(of_image[0], part / len(part), **CLOSE)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_after_a_cut_inside_the_tower_queries_are_those_that_are_left(monkeypatch, name):
    case = Case(name, "eager")
    inputs, looker = case.single()[0], Looker()
    inside = tokenprune.Method("inside", scorer=EveryThird(), stage="vision", schedule=BEFORE_1)
    after = tokenprune.Method("after", scorer=looker)
    tower = tokenprune.default_registry().adapter_for(case.model)(case.model).tower()
    attention = attention_of(tower.blocks[1])
    maps = Maps(monkeypatch, attention)
    with tokenprune.apply(case.model, method=[inside, after], keep=[8, 4]) as handle:
        case.model(**inputs)
        (image,) = handle.last.images
    (seen,), kept = looker.seen, image.survivors.tolist()
    assert kept == ([0, 1, 2, 3, 4, 7, 10, 13] if name == "llava" else [1, 4, 7, 10, 13, 16, 19, 22])
    sums = maps.sums(attention)[0]  # of the rows that are left, in the order of the tower
    n_merged, n_prefix = (1, 1) if name == "llava" else (4, 0)
    assert len(sums) == 8 * n_merged + n_prefix
    order = range(16) if name == "llava" else tokens_in_windows(*image.layout.grid)
    received = (sums[n_prefix:] / len(sums)).view(8, n_merged).mean(1).tolist()
    of_token = dict(zip([token for token in order if token in kept], received, strict=True))
    torch.testing.assert_close(seen[1], torch.tensor([of_token[token] for token in kept]), **CLOSE)
    assert len(seen[0]) == 8  # the survivors, of the block before the cut


BEFORE_1 = tokenprune.GeometricSchedule((1,), depth=None)


class EveryThird(tokenprune.Scorer):
    """Prefers every third token."""

    name = "every-third"

    def score(self, tokens):
        return (torch.arange(len(tokens)) % 3 == 1).float()


def test_nothing_but_a_number_for_each_row_is_kept(monkeypatch):
    """Of all blocks that are read, and of no other."""
    case, recorded = Case("llava"), []
    inputs = case.batch()[0]
    capture = sys.modules["tokenprune_adapters.transformers.capture"].FeatureCapture
    note = capture._on_received

    def watch(self, block, received):
        recorded.append((block, received))
        note(self, block, received)

    monkeypatch.setattr(capture, "_on_received", watch)
    with tokenprune.apply(case.model, scorer=Looker(blocks=(1,)), keep=5):
        case.model(**inputs)
    assert [block for block, _ in recorded] == [1]
    (received,) = [received for _, received in recorded]
    assert received.shape == (3, 17)
    assert received.untyped_storage().nbytes() == 3 * 17 * 4


def test_under_autocast_it_is_computed_in_float32(monkeypatch):
    case, given = Case("llava"), []

    def watch(*arguments):
        given.append(arguments)
        return received_sums(*arguments)

    monkeypatch.setattr(of_tower, "received_sums", watch)
    with torch.autocast("cpu", torch.bfloat16):
        seen, _ = looked(case.model, case.single()[0])
    assert given[0][0].dtype == torch.bfloat16  # queries as the model computes them
    torch.testing.assert_close(seen[0][0], received_sums(*given[0])[0, 1:] / 17, atol=0, rtol=0)


def test_configurations_of_attention_are_the_same_objects_after_removal():
    case = Case("qwen")
    configs = [block.attn.config for block in case.model.model.visual.blocks]
    with tokenprune.apply(case.model, scorer=Looker(), keep=5):
        assert not any(
            block.attn.config is config
            for block, config in zip(case.model.model.visual.blocks, configs, strict=True)
        )
    assert all(
        block.attn.config is config
        for block, config in zip(case.model.model.visual.blocks, configs, strict=True)
    )


def test_a_compiled_model_sees_the_same():
    case, looker = Case("llava"), Looker()
    inputs = case.batch()[0]
    seen, _ = looked(case.model, inputs)
    with tokenprune.apply(case.model, scorer=looker, keep=5):
        torch.compile(case.model, backend="eager")(**inputs)
    torch._dynamo.reset()
    for compiled, eager in zip(looker.seen, seen, strict=True):
        torch.testing.assert_close(compiled[1], eager[1], **CLOSE)


# -- what is refused


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_is_not_projected_is_refused_before_anything_is_changed(block):
    case = Case("llava")
    before = case.model.model.vision_tower.encoder.layers[0].self_attn.config
    sentence = rf"scorer 'looker' reads the attention of block {block} .* choose from 0 \.\.\. 1"
    with pytest.raises(tokenprune.IncompatibleError, match=sentence):
        tokenprune.apply(case.model, scorer=Looker(blocks=(block,)), keep=5)
    assert not tokenprune.is_pruned(case.model)
    assert case.model.model.vision_tower.encoder.layers[0].self_attn.config is before


@pytest.mark.parametrize("blocks", [[0], (0.5,), (True,)])
def test_blocks_must_be_a_tuple_of_integers(blocks):
    with pytest.raises(tokenprune.PluginError, match="tower_blocks must return a tuple of integers, got"):
        tokenprune.apply(Case("llava").model, scorer=Looker(blocks=blocks), keep=5)


class Greedy(Looker):
    """Reads another block than it names."""

    def score(self, tokens):
        return tokens.signal("tower_received")(1)


def test_a_block_that_was_not_named_is_refused():
    case = Case("llava")
    with tokenprune.apply(case.model, scorer=Greedy(blocks=(0,)), keep=5):
        with pytest.raises(tokenprune.IncompatibleError, match=r"block 1 .* \(observed: 0\).*tower_blocks"):
            case.model(**case.single()[0])


def test_inside_towers_the_signal_is_missed_by_name():
    with pytest.raises(tokenprune.IncompatibleError, match=r"needs the signal tower_depth, tower_received"):
        tokenprune.apply(Case("llava").model, scorer=Looker(), keep=5, stage="vision")


# -- received_sums by hand


def test_masks_hide_keys_and_rows_that_nobody_sees_are_no_queries():
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 6, 8, generator=draw), torch.randn(2, 2, 6, 8, generator=draw)
    shared = key.repeat_interleave(2, 1)
    want = (query[:, :, :4] @ shared[:, :, :4].mT / 8**0.5).softmax(-1).mean(1).sum(1)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., :4] = True
    for given in (mask, torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)):
        received = received_sums(query, key, None, given, None)
        torch.testing.assert_close(received[:, :4], want, **CLOSE)
        assert not received[:, 4:].any()


def test_segments_of_one_call_are_those_of_single_calls():
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 4, 10, 8, generator=draw), torch.randn(1, 4, 10, 8, generator=draw)
    parts = zip(query.split([3, 7], 2), key.split([3, 7], 2), strict=True)
    want = torch.cat([received_sums(q, k, 0.3, None, None) for q, k in parts], 1)
    together = received_sums(query, key, 0.3, None, torch.tensor([0, 3, 3, 10]))
    torch.testing.assert_close(together, want, **CLOSE)
    assert torch.allclose(together.sum(), torch.tensor(10.0))
