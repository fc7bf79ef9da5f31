# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a vision tower the parts of a method read, and the signal itself in parts and stacks."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import tokenprune
from tokenprune.stack import image_of, stack
from tokenprune.testing import example_tokens
from tokenprune.towers.checks import blocks_read


@dataclass(frozen=True)
class Reader(tokenprune.Scorer):
    """Reads the blocks it is told."""

    name: ClassVar[str] = "reader"
    needs: ClassVar[frozenset] = frozenset({"tower_received"})
    blocks: object = ()

    def tower_blocks(self, depth):
        return self.blocks(depth) if callable(self.blocks) else self.blocks

    def score(self, tokens):
        return None


@dataclass(frozen=True)
class Chooser(tokenprune.Selector):
    """Reads the last block."""

    name: ClassVar[str] = "chooser"
    needs: ClassVar[frozenset] = frozenset({"tower_received", "tower_depth"})

    def tower_blocks(self, depth):
        return (depth - 1,)

    def select(self, tokens, scores, keep):
        return tokenprune.Selection.from_order(torch.arange(keep))


def read(blocks, depth=8, selector="topk"):
    return blocks_read(tokenprune.Method("m", scorer=Reader(blocks), selector=selector), depth)


def test_a_strategy_reads_no_block_by_default():
    assert tokenprune.scorer("uniform").tower_blocks(24) == ()
    assert blocks_read(tokenprune.Method("m"), 0) == ()


def test_blocks_of_all_parts_are_read_once_in_order():
    assert read((5, 2), selector=Chooser()) == (2, 5, 7)
    assert read((7, 2), selector=Chooser()) == (2, 7)
    assert read(lambda depth: (depth // 3,), depth=24) == (8,)
    (block,) = read((np.int64(3),))
    assert type(block) is int


def test_parts_that_do_not_need_the_signal_are_not_asked():
    @dataclass(frozen=True)
    class Silent(Reader):
        needs: ClassVar[frozenset] = frozenset()

    assert blocks_read(tokenprune.Method("m", scorer=Silent((99,))), 4) == ()


@pytest.mark.parametrize("blocks", [(-1,), (8,), (0, 8)])
def test_blocks_that_the_tower_does_not_have_are_refused(blocks):
    sentence = r"'reader' reads the attention of block -?\d .* after block 7; choose from 0 \.\.\. 7"
    with pytest.raises(tokenprune.IncompatibleError, match=sentence):
        read(blocks)


@pytest.mark.parametrize("blocks", [3, [3], ("3",), (1.0,), (True,), None])
def test_anything_but_a_tuple_of_integers_is_a_fault_of_the_plugin(blocks):
    with pytest.raises(tokenprune.PluginError, match="scorer 'reader': tower_blocks must return a tuple of"):
        read(blocks)


def test_a_failure_names_the_plugin_and_an_error_of_ours_is_left_alone():
    with pytest.raises(tokenprune.PluginError, match="tower_blocks failed: ZeroDivisionError"):
        read(lambda depth: (1 // 0,))

    def refuse(depth):
        raise tokenprune.OptionError("not this tower")

    with pytest.raises(tokenprune.OptionError, match="not this tower"):
        read(refuse)


def test_tokens_of_a_tile_and_images_of_a_stack_have_their_own():
    first, second = example_tokens(seed=0), example_tokens(seed=1)
    slots = torch.tensor([3, 20, 4])
    received = first.signal("tower_received")(2)
    assert torch.equal(first.part(slots).signal("tower_received")(2), received[slots])
    assert first.part(slots).signal("tower_depth") == 4
    both = stack([first, second])
    assert torch.equal(both.signal("tower_received")(2)[0], received)
    assert both.signal("tower_depth") == image_of(both, 1).signal("tower_depth") == 4
