# SPDX-License-Identifier: Apache-2.0
"""The fastest that pruning could be: the same model, which only gets the rows that remain after each cut.

Nothing is scored or selected; the first rows of the image stand for those that would have been kept. For
methods that cut inside the decoder, the layers before the cut get all rows, as they do with the method.
`tower_oracle` does the same for cuts inside the vision tower.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenprune_cli.bench.tower_oracle import projected_rows
from tokenprune_cli.bench.workload import Workload

Profile = tuple[tuple[int, int], ...]  # (layer, visual rows from it on), ascending; the first layer is 0


def profile_of(cuts: Mapping[int, int], n_visual: int) -> Profile:
    """Return the visual rows by layer from the cuts of an `ImageReport`."""
    return tuple(sorted({0: n_visual, **cuts}.items()))


def rows_by_layer(profile: Profile, n_layers: int) -> list[int]:
    """Return the number of visual rows that enter each decoder layer."""
    return [[rows for start, rows in profile if start <= layer][-1] for layer in range(n_layers)]


def oracle_arguments(
    model: Any, workload: Workload, profile: Profile, tower: Profile = ()
) -> dict[str, Tensor]:
    """Run the tower, and return the language model's inputs, whose embeddings are (B, L, D).

    Parameters
    ----------
    profile
        The visual rows by layer of the language model.
    tower
        The cut inside the vision tower: its block, and the tokens left from there on.
    """
    inputs = workload.inputs
    if tower:
        ((block, left),) = tower
        images = projected_rows(model, workload, block, left)
    else:
        arguments = {name: inputs[name] for name in workload.tower_arguments}
        images = model.model.get_image_features(**arguments).pooler_output
    rows = torch.stack([image[: profile[0][1]] for image in images])
    before = model.get_input_embeddings()(inputs["input_ids"][:, : workload.before])
    end = inputs["input_ids"].shape[1] - workload.after
    after = model.get_input_embeddings()(inputs["input_ids"][:, end:])
    embeds = torch.cat([before, rows.to(before.dtype), after], 1)
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"][:, : embeds.shape[1]]}


@contextmanager
def shrinking(model: Any, profile: Profile, n_text: int) -> Iterator[None]:
    """Let decoder layers drop rows without a selection: each keeps the last rows that it gets."""

    def enter(rows: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tables = tuple(table[..., -rows:, :] for table in kwargs["position_embeddings"])
        # without padding a causal layer needs no mask
        changed = {"position_embeddings": tables, "position_ids": None, "attention_mask": None}
        return (args[0][:, -rows:], *args[1:]), {**kwargs, **changed}

    layers = model.model.language_model.layers
    by_layer = rows_by_layer(profile, len(layers))
    first = profile[1][0] if len(profile) > 1 else len(layers)
    with ExitStack() as hooks:
        for layer, rows in zip(layers[first:], by_layer[first:], strict=True):
            hook = functools.partial(enter, rows + n_text)
            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield
