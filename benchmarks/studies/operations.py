# SPDX-License-Identifier: Apache-2.0
"""Find the budget at which a variant takes as many operations as another one at its own budget."""

from __future__ import annotations

from typing import Any

import torch
from tokenprune_evaluation.flop_counter import FlopCounter

import tokenprune
from benchmarks.studies.study import Variant

N_TEXT = 16  # tokens of a question, about as many as in the scenes' prompts


@torch.no_grad()
def operations(model: Any, variant: Variant, share: float) -> int:
    """Count the operations of a prompt with one image, pruned to `share` of its visual tokens.

    Counts the matrix products of the vision tower, the projector, the language model and the choice of
    tokens, for random pixels.
    """
    inputs = _prompt(model)
    with variant.applied(model, share):
        model(**inputs)  # whatever is computed once, such as a closed form, is not counted
        with FlopCounter() as counter:
            model(**inputs)
    total: int = counter.total
    return total


def equal_share(model: Any, variant: Variant, base: Variant, share: float) -> float:
    """Return the largest share at which `variant` takes no more operations than `base` at `share`.

    Raises
    ------
    IncompatibleError
        If even a single token takes more.
    """
    n = _n_visual(model)
    limit = operations(model, base, share)
    low, high = 0, n  # `low` tokens fit, more than `high` are not tried
    while low < high:
        middle = (low + high + 1) // 2
        if operations(model, variant, middle / n) <= limit:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        raise tokenprune.IncompatibleError(
            f"{variant.name!r} takes more operations with one token than {base.name!r} does with "
            f"{share:.3g} of {n}"
        )
    return low / n


def _n_visual(model: Any) -> int:
    vision = model.config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2)


def _prompt(model: Any) -> dict[str, Any]:
    """A prompt of one random image and a few tokens, for models with a single square image as LLaVA."""
    generator = torch.Generator().manual_seed(0)
    size, image = model.config.vision_config.image_size, model.config.image_token_id
    ids = torch.tensor([[image] * _n_visual(model) + [image - 1 if image else 1] * N_TEXT])
    pixels = torch.randn(1, 3, size, size, generator=generator)
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
        "use_cache": True,
    }
