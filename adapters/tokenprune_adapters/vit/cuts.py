# SPDX-License-Identifier: Apache-2.0
"""The hooks of one pruned tower, which drop patch tokens before some of its blocks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import (
    BoundaryTrace,
    CallTrace,
    Cut,
    ImageReport,
    Layout,
    PruningReport,
    Selection,
    UnsupportedCallError,
    VisualTokens,
)
from tokenprune.image_plan import plan_image

from .attention import QueryKeyTap
from .choice import Chosen, choose, gather_rows
from .hooks import Hooks
from .intermediates import guard_intermediates
from .signals import FROM_ATTENTION, tower_signals
from .tower import Tower, refuse_tracing
from .tracing import boundary_before


@dataclass
class Run:
    """The state of one run of the tower over a batch.

    `cuts`: number of rows to keep before each cut block; `place` (B, K): the patch whose position each row
    has; `kept` (B, K): the patch it comes from, -1 for new rows; `found` is `kept` before the last cut;
    `sizes` (B, K): the number of patches that it stands for, None if each stands for one.
    """

    grid: tuple[int, int]
    cuts: Mapping[int, int]
    note: str = ""
    place: Tensor | None = None
    kept: Tensor | None = None
    found: Tensor | None = None
    sizes: Tensor | None = None
    selections: list[Selection] = field(default_factory=list)
    seconds: float = 0.0
    rope: tuple[Tensor, Tensor] | None = None
    boundaries: list[BoundaryTrace] = field(default_factory=list)


class VisionCuts:
    """Hooks on a tower's entry and blocks; `remove` removes them."""

    def __init__(
        self,
        tower: Tower,
        cut: Cut,
        record: Callable[[PruningReport], None],
        record_trace: Callable[[CallTrace], None] | None = None,
    ) -> None:
        self.tower, self.cut, self.record, self._record_trace = tower, cut, record, record_trace
        schedule = cut.method.schedule
        assert schedule is not None  # refused by the adapter's check
        self.boundaries = schedule.boundaries(len(tower.blocks))
        self._run: Run | None = None
        self._hooks = Hooks()
        self._hooks.before(tower.entry, self._begin)
        self._hooks.after(tower.blocks[-1], self._end)
        for i, block in enumerate(tower.blocks):
            if i == 0 or i >= self.boundaries[0]:
                self._hooks.before(block, functools.partial(self._enter_block, i), with_kwargs=True)
        self.taps: dict[int, QueryKeyTap] = {}
        if cut.method.needs & FROM_ATTENTION:
            for i in self.boundaries:
                watch = tower.tap(tower.blocks[i - 1])
                assert watch is not None  # refused by the adapter's check
                self.taps[i] = watch()
        guarded = guard_intermediates(tower, lambda height, width: self.plan(height, width).cuts)
        self._hooks.shadow(tower.module, "forward_intermediates", guarded)

    def remove(self) -> None:
        """Remove all hooks and taps."""
        self._run = None
        for tap in self.taps.values():
            tap.remove()
        self._hooks.remove()

    def plan(self, height: int, width: int) -> Run:
        """Plan the cuts for pictures of this size."""
        grid = self.tower.grid(height, width)
        plan = plan_image(self.cut, grid[0] * grid[1], len(self.tower.blocks))
        note = "" if plan.left_alone is None else plan.left_alone.note(self.cut)
        return Run(grid, dict(plan.cuts), note)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._run = None
        refuse_tracing(args[0])
        if self.tower.is_checkpointing() and torch.is_grad_enabled():
            raise UnsupportedCallError(
                "gradient checkpointing runs blocks a second time, which a pruned tower cannot tell from a "
                "new picture; disable it: set_grad_checkpointing(False)"
            )
        self._run = self.plan(*args[0].shape[-2:])

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._run = None
        for tap in self.taps.values():
            tap.forget()

    def _enter_block(
        self, i: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        run = self._run
        if run is None:
            return None
        rows = args[0]
        if i == 0:
            self._check_first_block(run, rows, kwargs)
        if i in run.cuts:
            rows = self._cut_before(i, run, rows)
        if self._record_trace is not None and i in self.boundaries:
            n_patches = run.grid[0] * run.grid[1]
            run.boundaries.append(boundary_before(i, args[0].shape[1], rows, n_patches, run.place))
            if i == self.boundaries[-1]:
                self._record_trace(CallTrace(self.tower.n_prefix + n_patches, tuple(run.boundaries)))
        if run.place is None:
            return None
        if kwargs.get("rope") is not None:
            kwargs = {**kwargs, "rope": _rope_of_kept(run, kwargs["rope"])}
        return (rows, *args[1:]), kwargs

    def _check_first_block(self, run: Run, rows: Tensor, kwargs: dict[str, Any]) -> None:
        """Refuse unsupported calls before the first block runs."""
        if not run.cuts:
            self.record(self._report(run, len(rows)))
            return
        if kwargs.get("attn_mask") is not None or kwargs.get("is_causal"):
            raise UnsupportedCallError(
                "a pruned tower takes no attn_mask and no is_causal: they refer to all tokens, most of "
                "which are dropped"
            )
        expected = self.tower.n_prefix + run.grid[0] * run.grid[1]
        if rows.shape[1] != expected:
            raise UnsupportedCallError(
                f"the first block gets {rows.shape[1]} tokens instead of {expected}: something else drops "
                "tokens (patch dropout in training?), so the positions of the others are unknown"
            )

    def _cut_before(self, i: int, run: Run, rows: Tensor) -> Tensor:
        """Choose patches and drop the others: (B, n_prefix + N, D) -> (B, n_prefix + K, D)."""
        start = time.perf_counter()
        prefix, patches = rows[:, : self.tower.n_prefix], rows[:, self.tower.n_prefix :]
        layout = Layout((1, *run.grid)) if run.place is None else Layout((1, 1, patches.shape[1]))
        with torch.no_grad():
            signals = tower_signals(
                self.tower, self.taps.get(i), rows.detach(), self.cut.method.needs, run.sizes
            )
            tokens = VisualTokens(patches.detach(), signals, layout)
            chosen = choose(self.cut.method, tokens, run.cuts[i], i)
            run.sizes = chosen.sizes(run.sizes, len(tokens))
        patches = chosen.take(patches)
        self._track(run, chosen)
        run.seconds += time.perf_counter() - start
        if i == max(run.cuts):
            self.record(self._report(run, len(rows)))
        return torch.cat([prefix, patches], 1)

    def _track(self, run: Run, chosen: Chosen) -> None:
        """Update the patch that each row comes from, and its position."""
        run.place = chosen.slots if run.place is None else run.place.gather(1, chosen.slots)
        run.found = run.kept
        source = chosen.slots if run.kept is None else run.kept.gather(1, chosen.slots)
        run.kept = torch.where(chosen.is_new, -1, source)
        run.selections, run.rope = chosen.selections, None

    def _report(self, run: Run, n_images: int) -> PruningReport:
        n = run.grid[0] * run.grid[1]
        images = [
            ImageReport(
                row=row,
                layout=Layout((1, *run.grid)),
                n_before=n,
                n_after=n if run.kept is None else run.kept.shape[1],
                selection=None if run.kept is None else run.selections[row],
                kept=None if run.kept is None else run.kept[row],
                cuts=dict(run.cuts),
                note=run.note,
                found=None if run.found is None else run.found[row],
                number=row,
            )
            for row in range(n_images)
        ]
        return PruningReport(tuple(images), seconds_choosing=run.seconds)


def _rope_of_kept(run: Run, rope: Tensor) -> Tensor:
    """Gather rotary sines and cosines (N, d) or (H, N, d) of the kept rows, (B, 1 or H, K, d)."""
    assert run.place is not None
    if run.rope is None or run.rope[0] is not rope:  # most towers give every block the same
        per_head = rope if rope.ndim > 2 else rope.unsqueeze(0)
        run.rope = rope, gather_rows(per_head.expand(len(run.place), *per_head.shape), run.place)
    return run.rope[1]
