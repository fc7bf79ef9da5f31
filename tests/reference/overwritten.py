# SPDX-License-Identifier: Apache-2.0
"""Vision towers that drop tokens, by stock code at full length: blocks overwrite the dropped rows.

A block is called by hand on the rows that are left of each image alone (or each window of it), and its output
is 7.0 elsewhere. All that comes after (norms, connector, language model) is stock code, and sees every row.
"""

import contextlib
import inspect

import torch

ANYTHING = 7.0


def square(height, width, side):
    """The patches of each token (N, side * side), for a grid in raster order."""
    return torch.tensor(
        [
            [(i * side + di) * width + j * side + dj for di in range(side) for dj in range(side)]
            for i in range(height // side)
            for j in range(width // side)
        ]
    )


@contextlib.contextmanager
def overwriting(blocks, cuts):
    """Let stock code run with blocks that overwrite dropped rows.

    `cuts` maps blocks to a mask of the tower's rows, (B, M) or (1, M) for one sequence: those left from
    there on. Before the first, blocks are stock code.
    """
    kept = None
    try:
        for number, block in enumerate(blocks):
            kept = cuts.get(number, kept)
            if kept is not None:
                block.forward = _overwriting(block, kept)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _overwriting(block, kept):
    names = [name for name in inspect.signature(type(block).forward).parameters if name != "self"]

    def forward(*args, **kwargs):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        rows = given.pop("hidden_states")
        flat = rows.ndim == 2
        rows = rows[None] if flat else rows
        out = torch.full_like(rows, ANYTHING)
        for sequence, places in _groups(given, kept):
            part = rows[sequence : sequence + 1, places]
            done = type(block).forward(
                block, part[0] if flat else part, **_of(given, sequence, places, names)
            )
            out[sequence, places] = done if flat else done[0]
        return out[0] if flat else out

    return forward


def _groups(given, kept):
    """Sequence and rows of what is left of each image or window; all of a sequence under a mask."""
    borders = given.get("cu_seqlens")
    for sequence, row in enumerate(kept):
        places = row.nonzero().squeeze(1)
        if borders is None:
            yield sequence, places
            continue
        windows = torch.bucketize(places, borders[1:], right=True)
        for window in windows.unique():
            yield sequence, places[windows == window]


def _of(given, sequence, places, names):
    """The arguments of one group alone."""
    own = {name: value for name, value in given.items() if name not in ("attention_mask", "max_seqlen")}
    if "attention_mask" in names:
        mask = given.get("attention_mask")
        of_sequence = None if mask is None else mask[min(sequence, len(mask) - 1)][None]
        own["attention_mask"] = None if mask is None else of_sequence[:, :, places[:, None], places]
    if own.get("cu_seqlens") is not None:
        own["cu_seqlens"] = torch.tensor([0, len(places)], dtype=torch.int32)
    if own.get("position_embeddings") is not None:
        own["position_embeddings"] = tuple(
            part[places] if part.ndim == 2 else part[sequence : sequence + 1, places]
            for part in own["position_embeddings"]
        )
    if own.get("position_ids") is not None:
        places_of = own["position_ids"]
        own["position_ids"] = (
            places_of[places] if places_of.ndim == 2 else places_of[sequence : sequence + 1, places]
        )
    return own
