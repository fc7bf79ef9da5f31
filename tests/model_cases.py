# SPDX-License-Identifier: Apache-2.0
"""The three main models with batches of the same kinds: unequal image counts, text-only rows, padding."""

import functools

import tiny_models as tm
import torch


class Case:
    """One model and its inputs; `alone(row)` is one row without padding and others' images."""

    def __init__(self, name, attention="sdpa"):
        self.name, self.model = name, model(name, attention)

    def batch(self):
        """Left padding, unequal image counts, two images in a row, a text-only row."""
        return self.inputs(*ROWS[self.name])

    def single(self):
        """One row, one image."""
        return self.inputs(ROWS[self.name][0])

    def inputs(self, *rows, seed=1):
        """Inputs of rows as in `tiny_models`; LLaVA-NeXT's pictures are ("I", height, width)."""
        if self.name == "llava":
            return tm.llava_inputs(*rows, seed=seed), rows
        if self.name == "qwen":
            return tm.qwen_inputs(*rows, seed=seed), rows
        sizes = [part[1:] for row in rows for part in row if isinstance(part, tuple)]
        plain = [tuple("I" if isinstance(part, tuple) else part for part in row) for row in rows]
        if not sizes:
            return tm.llava_inputs(*plain, seed=seed), rows
        return tm.llava_next_inputs(self.model, plain, sizes, seed=seed), rows

    def alone(self, inputs, row):
        """One row of a batch."""
        inputs, rows = inputs
        real = inputs["attention_mask"][row].bool()
        per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
        one = {name: inputs[name][row : row + 1, real] for name in per_token if name in inputs}
        for kind, pixels, sizes in (
            ("I", "pixel_values", {"llava_next": "image_sizes", "qwen": "image_grid_thw"}.get(self.name)),
            ("V", "pixel_values_videos", "video_grid_thw"),
        ):
            counts = [sum(_kind(part) == kind for part in each) for each in rows]
            start, stop = sum(counts[:row]), sum(counts[: row + 1])
            if start == stop:
                continue
            if self.name == "qwen":
                patches = inputs[sizes].prod(1).tolist()
                one[pixels] = inputs[pixels][sum(patches[:start]) : sum(patches[:stop])]
            else:
                one[pixels] = inputs[pixels][start:stop]
            if sizes is not None:
                one[sizes] = inputs[sizes][start:stop]
            if kind == "V":
                one["second_per_grid_ts"] = inputs["second_per_grid_ts"][start:stop]
        return one, (rows[row],)


def _kind(part):
    return part if isinstance(part, str) else part[0] if isinstance(part, tuple) else None


@functools.cache
def model(name, attention):
    """A tiny model, built once."""
    with torch.no_grad():
        return {"llava": tm.llava, "llava_next": tm.llava_next, "qwen": tm.qwen}[name](attention)


MODELS = ("llava", "llava_next", "qwen")
ROWS = {
    "llava": [(3, "I", 5), (2, "I", 4, "I", 3), (6,)],
    "llava_next": [(3, ("I", 40, 60), 5), (2, ("I", 64, 64), 4, ("I", 60, 30), 3), (6,)],
    "qwen": [(3, ("I", 4, 6), 5), (2, ("I", 4, 2), 3, ("V", 3, 2, 4), 4), (7,)],
}
SECOND = {
    "llava": (2, "I", 3),
    "llava_next": (2, ("I", 30, 60), 3),
    "qwen": (2, ("I", 4, 4), 3),
}
