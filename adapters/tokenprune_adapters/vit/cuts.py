# SPDX-License-Identifier: Apache-2.0
"""The hooks of one pruned tower, which drop patch tokens before some of its blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import CallTrace, Cut, PruningReport, UnsupportedCallError
from tokenprune.image_plan import ImagePlan, plan_image
from tokenprune.towers.checks import FROM_ATTENTION

from .attention import QueryKeyTap
from .hooks import Hooks
from .intermediates import guard_intermediates
from .run import PictureRun
from .tower import Tower, refuse_tracing


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
        self._run: PictureRun | None = None
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
        guarded = guard_intermediates(tower, self.cuts_of)
        self._hooks.shadow(tower.module, "forward_intermediates", guarded)

    def remove(self) -> None:
        """Remove all hooks and taps."""
        self._run = None
        for tap in self.taps.values():
            tap.remove()
        self._hooks.remove()

    def cuts_of(self, height: int, width: int) -> Mapping[int, int]:
        """Plan the rows to keep of pictures of this size before each block at which they are cut."""
        return self._plan(self.tower.grid(height, width)).cuts

    def _plan(self, grid: tuple[int, int]) -> ImagePlan:
        return plan_image(self.cut, grid[0] * grid[1], len(self.tower.blocks))

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._run = None
        refuse_tracing(args[0])
        if self.tower.is_checkpointing() and torch.is_grad_enabled():
            raise UnsupportedCallError(
                "gradient checkpointing runs blocks a second time, which a pruned tower cannot tell from a "
                "new picture; disable it: set_grad_checkpointing(False)"
            )
        self._run = PictureRun(self.tower, self.cut, args[0], self.taps)

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
        if i in self.boundaries:
            rows = self._cross(i, run, rows)
        if run.survivors is None:
            return None
        if kwargs.get("rope") is not None:
            kwargs = {**kwargs, "rope": run.rope_of_kept(kwargs["rope"])}
        return (rows, *args[1:]), kwargs

    def _check_first_block(self, run: PictureRun, rows: Tensor, kwargs: dict[str, Any]) -> None:
        """Refuse unsupported calls before the first block runs."""
        plan = self._plan(run.grid)
        if plan.left_alone is not None:
            self.record(run.report(len(rows), plan.left_alone.note(self.cut)))
            self._run = None if self._record_trace is None else run
            return
        if kwargs.get("attn_mask") is not None or kwargs.get("is_causal"):
            raise UnsupportedCallError(
                "a pruned tower takes no attn_mask and no is_causal: they refer to all tokens, most of "
                "which are dropped"
            )
        expected = self.tower.n_prefix + len(run.layout)
        if rows.shape[1] != expected:
            raise UnsupportedCallError(
                f"the first block gets {rows.shape[1]} tokens instead of {expected}: something else drops "
                "tokens (patch dropout in training?), so the positions of the others are unknown"
            )

    def _cross(self, i: int, run: PictureRun, rows: Tensor) -> Tensor:
        """Cut before block `i`, and record the report and the trace when the last cut is made."""
        rows = run.cut_before(i, rows, self._record_trace is not None)
        cuts = run.plans[0]
        if cuts and i == max(cuts):
            self.record(run.report(len(rows)))
        if self._record_trace is not None and i == self.boundaries[-1]:
            assert run.outcome is not None
            n_rows = self.tower.n_prefix + len(run.layout)
            self._record_trace(CallTrace(n_rows, tuple(run.outcome.boundaries)))
        return rows
