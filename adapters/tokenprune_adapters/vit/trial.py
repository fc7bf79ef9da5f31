# SPDX-License-Identifier: Apache-2.0
"""Check a pruned vision tower against reference runs on the kept rows, one picture at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import ImageReport, PruningHandle, PruningReport, UnsupportedCallError
from tokenprune.precision import in_float64
from tokenprune.testing.outputs import called, slots_of, tensors_of
from tokenprune.trial import BATCH, CACHE, EXACTNESS, Judge, PromiseRecord, Trial

from .tower import Tower

# tolerance for rounding, by the dtype of the output, relative to its norm
FLOOR = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-1}


class TowerTrial(Trial):
    """Runs one model on a batch of pictures, and its tower on each picture alone."""

    def __init__(self, model: nn.Module, tower: Tower, inputs: Any) -> None:
        self.model, self.tower, self.inputs = model, tower, inputs
        with self.undisturbed():
            self._pictures = self._seen()

    def _seen(self) -> Tensor:
        """Record the pictures (B, C, H, W) that reach the tower."""
        seen: list[Tensor] = []
        look = self.tower.entry.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
        try:
            called(self.model, self.inputs)
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
            raise UnsupportedCallError(
                f"the unpruned {type(self.model).__name__} cannot be run on these inputs "
                f"({type(error).__name__}: {error}); inputs must be the arguments of the model"
            ) from error
        finally:
            look.remove()
        if not seen:
            raise UnsupportedCallError("no picture reaches the vision tower with these inputs")
        return seen[0]

    def outputs(self, brief: bool = False) -> list[Tensor]:
        """All tensors the model returns."""
        return tensors_of(called(self.model, self.inputs))

    def run(self, handle: PruningHandle) -> Judge:
        """Run the pruned tower on all pictures, and on each alone."""
        name = handle.cuts[0].method.name
        alone = [self._output(picture) for picture in torch.split(self._pictures, 1)]
        together = self._output(self._pictures)
        return functools.partial(self._records, name, together, alone, handle.last)

    def _output(self, pictures: Tensor) -> Tensor:
        return tensors_of(self.tower.module(pictures))[0]

    def _records(
        self, name: str, together: Tensor, alone: list[Tensor], report: PruningReport | None
    ) -> Iterator[PromiseRecord]:
        allowed = FLOOR.get(together.dtype, 2e-1)
        assert report is not None  # refused before
        images = sorted(report.images, key=lambda image: image.row)
        pictures = torch.split(self._pictures, 1)
        wanted = [self._by_hand(picture, image) for picture, image in zip(pictures, images, strict=True)]
        yield PromiseRecord.of(EXACTNESS, name, _apart(together, torch.cat(wanted)), allowed)
        yield PromiseRecord.of(BATCH, name, _apart(together, torch.cat(alone)), allowed)
        note = "a vision tower has no key-value cache"
        yield PromiseRecord.skipped(CACHE, name, note)

    def _by_hand(self, picture: Tensor, image: ImageReport) -> Tensor:
        """Run the tower's own blocks, from each cut on with the rows kept there."""
        n, slots = self.tower.n_prefix, torch.arange(image.n_before)

        def enter(number: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal slots
            rows = args[0]
            if number in image.selections:
                selection = image.selections[number]
                picked = slots_of(selection, len(slots))
                slots = slots.to(picked.device)[picked]
                kept = (
                    rows[:, n:][:, picked]
                    if selection.features is None
                    else selection.features[None].to(rows)
                )
                rows = torch.cat([rows[:, :n], kept], 1)
            if kwargs.get("rope") is not None:
                kwargs = {**kwargs, "rope": kwargs["rope"][..., slots, :]}
            return (rows, *args[1:]), kwargs

        blocks = list(enumerate(self.tower.blocks))[min(image.selections) :]
        hooks = [
            block.register_forward_pre_hook(functools.partial(enter, number), with_kwargs=True)
            for number, block in blocks
        ]
        try:
            return self._output(picture)
        finally:
            for hook in hooks:
                hook.remove()


def _apart(outputs: Tensor, wanted: Tensor) -> float:
    """The largest difference of a picture's output, relative to its norm."""
    if outputs.shape != wanted.shape:
        return math.inf
    rows, others = in_float64(outputs).flatten(1), in_float64(wanted).flatten(1)
    return float(((rows - others).norm(dim=1) / others.norm(dim=1).clamp(min=1e-30)).max())


def example_pictures(tower: Tower, weight: Tensor, seed: int, n: int = 2) -> Tensor:
    """Random pictures (n, C, H, W) of the default size; `weight` is the patch embedding's kernel."""
    sides: Sequence[int] = weight.shape[-2:]
    height, width = (grid * side for grid, side in zip(tower.usual, sides, strict=True))
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, weight.shape[1], height, width, generator=draw).to(weight.device, weight.dtype)
