# SPDX-License-Identifier: Apache-2.0
"""The hooks of a cut inside a vision tower: choose tokens, run blocks on those left, widen the output."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tokenprune import Cut, UnsupportedCallError
from tokenprune.gather import take
from tokenprune.towers.checks import FROM_ATTENTION
from tokenprune.towers.outcome import Outcome
from tokenprune.towers.survivors import Survivors

from .. import receipts, stock
from ..call import untraced
from ..calls import BlockCall
from ..exporting import is_exporting
from ..refusals import refuse_recomputing
from ..signature import Signature
from ..tap import AttentionFunctionTap
from ..undo import UndoStack
from .parts import TowerParts
from .run import Run
from .signals import Looked

if TYPE_CHECKING:
    from ..capture import FeatureCapture
    from ..facts import VisionLanguageFacts


class TowerCuts:
    """Hooks on a vision tower, its blocks, and the modules after it; `remove` removes them.

    Only encodings of the model are cut: a tower that is called on its own is not.
    """

    def __init__(
        self,
        adapter: VisionLanguageFacts,
        cut: Cut,
        capture: FeatureCapture,
        traces: bool,
    ) -> None:
        parts = adapter.tower()
        schedule = cut.method.schedule
        assert parts is not None and schedule is not None  # refused by the adapter's check
        self.adapter, self.parts, self.cut, self._capture, self._traces = adapter, parts, cut, capture, traces
        self.boundaries = schedule.boundaries(parts.n_projected)
        self._signature = block_signature(parts)
        self._entry = Signature.of_forward(parts.module, ())
        self._run: Run | None = None
        self._start = untraced(self._begin)
        self._undo = UndoStack()
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def _install(self) -> None:
        parts, blocks = self.parts, list(self.parts.blocks)
        self._undo.do(
            lambda: parts.module.register_forward_pre_hook(self._begin_or_refuse, with_kwargs=True).remove
        )
        for i in range(self.boundaries[0], len(blocks)):
            self._before(blocks[i], functools.partial(self._enter_block, i))
        if self.cut.method.needs & FROM_ATTENTION:
            assert parts.attention is not None  # otherwise these signals are not provided
            for i in self.boundaries:
                self._before(blocks[i - 1], functools.partial(self._note_borders, i))
                see = functools.partial(self._see, i)
                tap = functools.partial(AttentionFunctionTap, parts.attention(i - 1), see)
                self._undo.do(lambda tap=tap: tap().remove)  # type: ignore[misc]
        self._after(parts.module, self._leave_tower)
        for module in parts.widened:
            self._after(module, self._widen)
        if parts.rows_widened is not None:
            self._after(parts.rows_widened, self._widen_rows)

    def _before(self, module: nn.Module, hook: Any) -> None:
        self._undo.do(lambda: module.register_forward_pre_hook(untraced(hook), with_kwargs=True).remove)

    def _after(self, module: nn.Module, hook: Any) -> None:
        self._undo.do(lambda: module.register_forward_hook(untraced(hook)).remove)

    def remove(self) -> None:
        """Remove all hooks and taps."""
        self._run = None
        self._undo.run()

    # -- the tower: one run for each encoding

    def _begin_or_refuse(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_exporting():
            raise UnsupportedCallError(
                "torch.export cannot trace a cut inside the vision tower: which tokens are kept depends on "
                "the picture; remove() the pruning first"
            )
        self._start(args, kwargs)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        encoding = self._capture.running
        self._run = None
        if encoding is None:
            return
        if encoding.seen.tower is not None:
            raise UnsupportedCallError(
                "the vision tower was called a second time for the same images, and a cut inside it expects "
                "a single call; remove the pruning, or prune at the projector stage"
            )
        refuse_recomputing(self.parts.blocks, "prune after the vision tower (zoo-exact, divprune ...)")
        self._run = Run(self.adapter, self.parts, self.cut, encoding)
        self._run.pixels = self._entry.bind(args, kwargs)[self._entry.order[0]]

    def _leave_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        """Shorten the hidden states from before the last cut, as lists of layers are joined by columns."""
        run, self._run = self._run, None
        if run is None or run.outcome is None:
            return
        run.encoding.seen.tower = run.outcome
        if self.parts.rows_widened is not None or not run.outcome.states or isinstance(output, Tensor):
            return
        states = stock.optional_field(output, "states")
        if states is not None:
            short = tuple(rows if rows is None else _last_rows(run.outcome.states, rows) for rows in states)
            stock.set_output_field(output, "states", short)

    def _widen(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Widen the rows of a module after the tower to all tokens; those of all tokens are left as they are.

        Modules that read the output of an early block run before the tower is left.
        """
        outcome = self._outcome()
        if outcome is None:
            return None
        n = output.shape[-2]
        for state in outcome.states:
            if n == state.n_tokens:
                return state.widen_tokens(output)
        if n != outcome.states[0].n_all:
            raise receipts.broken(
                f"{type(module).__name__} returned {n} rows for {outcome.states[-1].n_tokens} tokens"
            )
        return None

    def _widen_rows(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        """Widen the last rows that a module returns, and those between blocks, to all rows of the tower."""
        outcome = self._outcome()
        if outcome is None:
            return None
        states = {state.count: state for state in outcome.states}
        n_all = outcome.states[0].keep.shape[1]

        def widen(rows: Tensor) -> Tensor:
            n = rows.shape[-2]
            if n not in states and n != n_all:
                raise receipts.broken(
                    f"{type(module).__name__} returned {n} rows for {outcome.states[-1].count} that are left"
                )
            return states[n].widen_rows(rows) if n in states else rows

        if isinstance(output, Tensor):
            return widen(output)
        stock.set_output_field(output, "rows", widen(stock.output_field(output, "rows")))
        between = stock.optional_field(output, "states")
        if between is not None:
            short = tuple(rows if rows is None else widen(rows) for rows in between)
            stock.set_output_field(output, "states", short)
        return None

    def _outcome(self) -> Outcome | None:
        """What the cuts of the encoding that is running left; None if nothing was dropped."""
        encoding = self._capture.running
        if encoding is None:
            return None
        outcome = self._run.outcome if self._run is not None else encoding.seen.tower
        return outcome if outcome is not None and outcome.states else None

    # -- blocks

    def _note_borders(self, i: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the segments of the block before a cut, whose attention is read."""
        if self._run is not None:
            block = self._signature.read(BlockCall, args, kwargs)
            if block.mask is not None and not self.parts.packed:
                raise UnsupportedCallError(
                    f"method {self.cut.method.name!r} reads the attention of patches, and a mask hides some "
                    "of them (padded pictures); choose a method that reads none"
                )
            self._run.looked[i] = Looked(borders=block.segments)

    def _see(self, i: int, query: Tensor, key: Tensor, scaling: float | None) -> None:
        if self._run is not None:
            self._run.looked[i].calls.append((query.detach(), key.detach(), scaling))

    def _enter_block(
        self, i: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        run = self._run
        if run is None:
            return None
        block = self._signature.read(BlockCall, args, kwargs)
        if i in self.boundaries:
            flat = block.hidden.ndim == 2
            hidden = block.hidden[None] if flat else block.hidden
            hidden = run.cut_before(i, hidden, self._traces)
            block.hidden = hidden[0] if flat else hidden
        if run.arguments is None:
            return None
        run.arguments.shorten(block)
        passed = self._signature.bind(args, kwargs)
        args, kwargs = self._signature.write(block)
        return args, {name: value for name, value in kwargs.items() if value is not None or name in passed}


def block_signature(parts: TowerParts) -> Signature:
    """The signature of the tower's blocks.

    Raises
    ------
    UnsupportedModelError
        When a block does not take an argument that has an entry for each row.
    """
    words = ("hidden", *parts.takes)
    optional = [word for word in BlockCall.words if word not in words]
    kinds = {type(block): block for block in parts.blocks}.values()
    signatures = [Signature.of_forward(block, words, optional, first=("hidden",)) for block in kinds]
    return signatures[0]


def _last_rows(states: list[Survivors], rows: Tensor) -> Tensor:
    """Of rows (B, M, D) before or after any of the cuts, those that are left after the last.

    Rows (M, D) of a sequence, which no projector reads, are left as they are.
    """
    if rows.ndim == 2:
        return rows
    counts = {state.count: state for state in states}
    before = counts.get(rows.shape[1])
    return rows if before is states[-1] else take(rows, states[-1].places_in(before))
