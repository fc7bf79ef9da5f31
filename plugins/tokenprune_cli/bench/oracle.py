# SPDX-License-Identifier: Apache-2.0
"""The fastest that pruning could be: the same model, fed from the start what is left after each cut.

No scores, no choice, no bookkeeping: the first rows of the picture stand for those that would have been kept.
For methods that cut inside the decoder the layers before the cut get all rows, as they do in the method.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenprune_cli.bench.workload import Workload

Profile = tuple[tuple[int, int], ...]  # visual rows from decoder layer i on, ascending in i; begins at 0


def profile_of(cuts: Mapping[int, int], n_visual: int) -> Profile:
    """Visual rows by layer, from the cuts an `ImageReport` tells of."""
    return tuple(sorted({0: n_visual, **cuts}.items()))


def rows_by_layer(profile: Profile, n_layers: int) -> list[int]:
    """Visual rows entering each decoder layer."""
    return [[rows for start, rows in profile if start <= layer][-1] for layer in range(n_layers)]


def oracle_arguments(model: Any, workload: Workload, profile: Profile) -> dict[str, Tensor]:
    """Run the tower, and give the language model what enters its first layer, (B, P, D)."""
    inputs = workload.inputs
    tower = {name: inputs[name] for name in workload.tower_arguments}
    images = model.model.get_image_features(**tower).pooler_output
    rows = torch.stack([image[: profile[0][1]] for image in images])
    words = model.get_input_embeddings()(inputs["input_ids"][:, : workload.before])
    end = inputs["input_ids"].shape[1] - workload.after
    more = model.get_input_embeddings()(inputs["input_ids"][:, end:])
    embeds = torch.cat([words, rows.to(words.dtype), more], 1)
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"][:, : embeds.shape[1]]}


@contextmanager
def shrinking(model: Any, profile: Profile, n_text: int) -> Iterator[None]:
    """Let decoder layers drop rows without choosing: each keeps the last of what it gets."""

    def enter(rows: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tables = tuple(table[..., -rows:, :] for table in kwargs["position_embeddings"])
        # without padding a causal layer needs no mask
        changed = {"position_embeddings": tables, "position_ids": None, "attention_mask": None}
        return (args[0][:, -rows:], *args[1:]), {**kwargs, **changed}

    layers = model.model.language_model.layers
    hooks = []
    if len(profile) > 1:
        for i in range(profile[1][0], len(layers)):
            rows = rows_by_layer(profile, len(layers))[i] + n_text
            hook = functools.partial(enter, rows)
            hooks.append(layers[i].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
