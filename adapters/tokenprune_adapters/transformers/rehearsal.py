# SPDX-License-Identifier: Apache-2.0
"""Rehearse a cut before the first call: run it on a few rows, through the real hooks and cache.

Some rows of a short prompt are dropped and one more row is decoded from its cache; the result is compared
with a single run of the kept rows, without hooks and without a cache. A cache, mask or position that is
handled wrongly causes a difference far above that of the model's own cached decoding. The first layers of the
language model suffice: those up to the first boundary, and at least one of each kind. Features that need many
rows (windows, chunks) are not covered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune import Cut, ExplicitSchedule, TokenPruneError, UnsupportedModelError
from tokenprune.at_hand import is_compressed, why_not_at_hand

from . import stock
from .call import Call, RemainingRows
from .calls import LanguageCall, ModelCall
from .engine import Engine
from .facts import VisionLanguageFacts
from .rows import RowChoice

N_ROWS = 9  # rows of the prompt; one more is decoded
N_DROPPED = 3
FIRST_DROPPED = 2
N_LAYERS = 4  # minimum depth
TIMES_OWN = 10.0  # allowed multiple of the model's own difference
# tolerance by dtype: errors in a cache, mask or position give 1e-2 and more
FLOOR = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def rehearse(adapter: VisionLanguageFacts, cuts: list[Cut]) -> str:
    """Rehearse each cut, and return a summary of the differences.

    Raises
    ------
    UnsupportedModelError
        If a rehearsed output differs, or the language model cannot be run in this way.
    """
    skipped = _why_not(adapter)
    if skipped:
        return f"not rehearsed: {skipped}"
    try:
        with _undisturbed(adapter):
            measured = [_Rehearsal(adapter, cut).measure() for cut in cuts]
    except torch.OutOfMemoryError:
        raise
    except (TokenPruneError, TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"a rehearsal of pruning on {type(adapter.model).__name__} ended in {type(error).__name__}: "
            f"{str(error).rstrip('.')}. {_remedy()}"
        ) from error
    if not all(math.isfinite(tolerance) for _, tolerance in measured):
        return "not rehearsed: the language model's own output is not finite on random tokens"
    for cut, (difference, tolerance) in zip(cuts, measured, strict=True):
        if not difference <= tolerance:
            raise UnsupportedModelError(
                f"a rehearsal of {cut.method.name!r} on {type(adapter.model).__name__} gave rows that differ "
                f"by {difference:.1e} of their size from those of the kept rows alone ({tolerance:.1e} is "
                "allowed): a cache, mask or position works differently than in the tested models. "
                f"{_remedy()}"
            )
    difference, tolerance = max(measured, key=lambda pair: pair[0] / pair[1])
    return f"rehearsed: within {difference:.1e} of the kept rows alone ({tolerance:.1e} is allowed)"


def _remedy() -> str:
    return (
        f"transformers {stock.installed_version()} is installed, {stock.tested_range()} was tested. Install "
        "a tested version, or report this model; verify=False prunes without a rehearsal"
    )


def _why_not(adapter: VisionLanguageFacts) -> str:
    """Why the cuts cannot be rehearsed; empty if they can."""
    if any(hasattr(module, "unshard") for module in adapter.model.modules()):
        return "weights are sharded over processes (FSDP)"
    parts = {"weights of the language model": adapter.language_model}
    parts["the embeddings"] = stock.embedding_table(adapter.model)
    for name, part in parts.items():
        if any(weight.is_meta for weight in part.parameters()):
            return f"{name} {why_not_at_hand(part)}"
    if any(map(is_compressed, adapter.language_model.modules())):
        return "weights of the language model are compressed until its first call"
    return ""


@contextmanager
def _undisturbed(adapter: VisionLanguageFacts) -> Iterator[None]:
    """Evaluation mode without gradients, autocast or compiled code; restores the state afterwards."""
    modules = list(adapter.language_model.modules())
    training = [module.training for module in modules]
    device = stock.embedding_table(adapter.model).weight.device.type
    try:
        for module in modules:
            module.training = False
        with torch.no_grad(), torch.autocast(device, enabled=False), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, previous in zip(modules, training, strict=True):
            module.training = previous


@dataclass
class _Choice:
    """A `choosing.Chooser` that drops fixed rows."""

    dropped: Tensor
    closes_up: bool
    boundary: int | None

    def _rows(self, call: Call) -> RowChoice:
        assert call.entered is not None
        choice = RowChoice(call.entered.shape[:2], None, call.entered.device)
        choice.keep[:, self.dropped] = False
        return choice

    def before_language(self, call: Call, brought: ModelCall) -> None:
        if self.boundary is None:
            choice = self._rows(call)
            call.front = RemainingRows(choice.plan(), choice.gone(None) if self.closes_up else None)

    def before_layers(self, call: Call) -> None:
        assert self.boundary is not None
        call.choice, call.due = self._rows(call), frozenset({self.boundary})

    def before_layer(self, i: int, call: Call, hidden: Tensor, rotated: Any) -> None:
        """Do nothing: the rows were chosen in `before_layers`."""


class _Rehearsal:
    """Rehearses one cut on one prompt.

    Rows dropped inside the decoder are masked from the start, so that at both stages the kept rows equal
    those of a prompt without the dropped ones.
    """

    def __init__(self, adapter: VisionLanguageFacts, cut: Cut) -> None:
        self.adapter, self.cut = adapter, cut
        self.language = adapter.language_model
        self._signature = adapter.signatures(False).language
        table = stock.embedding_table(adapter.model)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(0, len(table.weight), (1, N_ROWS + 1), generator=draw)
        ids = ids.to(table.weight.device)
        self.rows: Tensor = table(ids)
        self.arguments = adapter.token_arguments(ids)
        self.closes_up = cut.closes_up
        schedule = cut.method.schedule if cut.method.stage == "decoder" else None
        self.boundary = None if schedule is None else schedule.boundaries(len(adapter.layers))[0]
        if self.boundary is not None:  # an absolute layer, however many layers are rehearsed
            first = ExplicitSchedule((self.boundary,), (1,))
            self.cut = dataclasses.replace(cut, method=dataclasses.replace(cut.method, schedule=first))
        firsts = stock.first_layers(self.language.config)
        self.depth = 1 + max(N_LAYERS - 1, (self.boundary or 0) + 1, *firsts)
        # flash attention reads gaps in positions as packed prompts; if positions are renumbered inside the
        # decoder, the layers before and after a boundary agree on them only if no row precedes the dropped
        # ones
        leading = stock.is_flash(self.language.config) or (self.boundary is not None and self.closes_up)
        start = 0 if leading else FIRST_DROPPED
        keep = torch.ones(N_ROWS + 1, dtype=torch.bool)
        keep[start : start + N_DROPPED] = False
        self.keep = keep.to(self.rows.device)

    def measure(self) -> tuple[float, float]:
        """Return the relative difference and its tolerance, infinite if the reference is not finite."""
        layers = self.language.layers
        self.language.layers = nn.ModuleList(list(layers)[: self.depth])
        try:
            return self._measure()
        finally:
            self.language.layers = layers

    def _kv(self) -> Any:
        """Create an empty cache for the rehearsed layers."""
        kv = stock.new_kv(self.language.config)
        del stock.layers_of(kv)[self.depth :]
        return kv

    def _measure(self) -> tuple[float, float]:
        places = torch.arange(N_ROWS + 1, device=self.rows.device)
        kept = self.keep.nonzero().squeeze(1)
        kept_places = places[: len(kept)] if self.closes_up else kept
        wanted = self._run(kept, kept_places, None, ones=True)
        if not bool(wanted.isfinite().all()):
            return math.nan, math.inf
        difference, floor = _difference(self._pruned(places), wanted), FLOOR.get(wanted.dtype, 1e-2)
        if difference <= floor:
            return difference, floor
        kv = self._kv()
        steps = (slice(-1), slice(-1, None))
        cached = torch.cat([self._run(kept[step], kept_places[step], kv, ones=True) for step in steps], 1)
        return difference, max(floor, TIMES_OWN * _difference(cached, wanted))

    def _pruned(self, places: Tensor) -> Tensor:
        """Run the prompt and one more row through the engine."""
        choice = _Choice((~self.keep[:-1]).nonzero().squeeze(1), self.closes_up, self.boundary)
        kv = self._kv()
        mask = None if self.boundary is None else self.keep.long()[None]
        engine = Engine(self.adapter, [self.cut], lambda report: None, choice)
        try:
            engine.turn.take()
            engine.brought = ModelCall({})
            prompt = self._run(places[:-1], places[:-1], kv, mask=None if mask is None else mask[:, :-1])
            engine.brought = None
            decoded = self._run(places[-1:], None, kv, mask=mask)  # the cache defines its position
        finally:
            engine.turn.give()
            engine.remove()
        return torch.cat([prompt[:, self.keep[:-1]], decoded], 1)

    def _run(
        self, index: Tensor, places: Tensor | None, kv: Any, mask: Tensor | None = None, ones: bool = False
    ) -> Tensor:
        """Run the language model alone on the rows of `index` (n,); return its last hidden rows (1, n, D)."""
        rows = self.rows[:, index]
        if ones:  # without a mask, gaps in positions would look like packed prompts
            n = rows.shape[1] + (0 if kv is None else stock.seen(kv))
            mask = torch.ones(1, n, dtype=torch.long, device=rows.device)
        axes = self.adapter.position_axes
        shape = (1, -1) if axes == 1 else (axes, 1, -1)
        positions = None if places is None else places.expand(*shape)
        more = {word: value[:, index] for word, value in self.arguments.items()}
        call = LanguageCall({}, rows, mask, positions, kv, kv is not None, **more)
        args, kwargs = self._signature.write(call)
        output: Tensor = stock.output_field(self.language(*args, **kwargs), "rows")
        return output


def _difference(rows: Tensor, wanted: Tensor) -> float:
    """Norm of the difference of two tensors, relative to the norm of `wanted`."""
    wanted = wanted.float()
    norm = torch.linalg.vector_norm
    return float(norm(rows.float() - wanted) / norm(wanted).clamp(min=torch.finfo(torch.float32).tiny))
