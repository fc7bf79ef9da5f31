# SPDX-License-Identifier: Apache-2.0
"""A method: a named combination of scorer, selector and optional reducer, with the settings of its paper."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .budget import Budget
from .errors import IncompatibleError, OptionError
from .lookup import default_lookup
from .option_types import check_one_of, check_types
from .pipeline import Pipeline
from .precision import without_autocast
from .schedule import BUDGET_UNITS, Schedule, at_layers
from .scope import cover_slices, join, kept_newlines, share_out
from .selection import Selection
from .stack import choose_parts
from .strategy import Reducer, Scorer, Selector, Strategy, check_options
from .tokens import Layout, VisualTokens

STAGES = ("vision", "projector", "decoder")


@dataclass(frozen=True)
class Method:
    """How visual tokens are scored, selected and cut.

    `scorer`, `selector` and `reducer` are names or instances. `positions` is `"contiguous"` (kept tokens
    are renumbered), `"original"` (they keep their positions) or None (the model's default). `deviations`
    lists the intended differences from the official code. The method's documentation page has more.
    `variant_of` names the method that this one stands in for on models that the other does not run on.
    `then` is a method at a later stage that cuts what this one leaves, at least the share `at_least`.
    At the decoder stage, `schedule` sets the layers of the cuts and the rows left after each, and `budget`
    what `keep` counts there (see `Schedule.cuts`).
    """

    name: str
    title: str = ""
    scorer: str | Scorer = "uniform"
    selector: str | Selector = "topk"
    reducer: str | Reducer | None = None
    stage: str = "projector"
    schedule: Schedule | None = None
    budget: str = "rows"
    positions: str | None = None
    scope: str = "image"
    newlines: str = "drop"
    paper: str = ""
    deviations: tuple[str, ...] = ()
    variant_of: str = ""
    then: str | Method | None = None
    at_least: float = 0.0

    def __post_init__(self) -> None:
        check_one_of("stage", self.stage, STAGES)
        check_one_of("budget", self.budget, BUDGET_UNITS)
        check_one_of("positions", self.positions, (None, "contiguous", "original"))
        check_one_of("scope", self.scope, ("image", "tile"))
        check_one_of("newlines", self.newlines, ("drop", "compete", "keep"))

    @functools.cached_property
    def _pipeline(self) -> Pipeline:
        """The method's strategies as objects; names are looked up once, on first use."""
        scorer, selector, reducer = self.scorer, self.selector, self.reducer
        if not isinstance(scorer, Scorer):
            scorer = default_lookup().strategy("scorer", scorer)
        if not isinstance(selector, Selector):
            selector = default_lookup().strategy("selector", selector)
        if reducer is not None and not isinstance(reducer, Reducer):
            reducer = default_lookup().strategy("reducer", reducer)
        return Pipeline(scorer, selector, reducer)

    def resolved(self) -> Method:
        """Return this method with every name replaced by its strategy."""
        strategies = vars(self._pipeline)
        if all(getattr(self, role) is strategy for role, strategy in strategies.items()):
            return self
        return dataclasses.replace(self, **strategies)

    @property
    def parts(self) -> tuple[Strategy, ...]:
        """The method's strategies, as objects."""
        return self._pipeline.parts

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the method's strategies use."""
        return frozenset().union(*(part.needs for part in self.parts))

    def with_options(self, **options: Any) -> Method:
        """Return a copy with changed options: fields of the method, or options of its strategies.

        `layer`, an index or a list, is short for a schedule with cuts before these layers (or blocks).

        Raises
        ------
        OptionError
            When neither has an option of this name, or the value has the wrong type.
        """
        fields = {f.name for f in dataclasses.fields(self)} - {"name", "scorer", "selector", "reducer"}
        known = sorted({"layer"}.union(fields, *(part.options() for part in self.parts)))
        check_options(f"method {self.name!r}", options, tuple(known))
        changed: dict[str, Any] = {k: v for k, v in options.items() if k in fields}
        if "layer" in options and "schedule" in options:
            raise OptionError(f"method {self.name!r}: give either layer or schedule, not both")
        if "layer" in options:
            changed["schedule"] = at_layers(self.schedule, options["layer"])
        check_types(f"method {self.name!r}", Method, changed)
        for role, part in vars(self._pipeline).items():
            if part is not None:
                changed[role] = part.with_options(**{k: options[k] for k in part.options() if k in options})
        return dataclasses.replace(self, **changed)

    @property
    def adaptive(self) -> bool:
        """Whether the number of rows kept depends on the picture: at most the budget; see `Selector`."""
        return self._pipeline.selector.adaptive

    def n_keep(self, layout: Layout, keep: int | Budget) -> int | None:
        """Return the number of rows kept of an image with this layout; None if the method is adaptive.

        Parameters
        ----------
        keep
            The budget as `apply` takes it; for tiled images in scope `"tile"` a count is the budget at the
            model's full number of tiles.
        """
        return None if self.adaptive else self._rows(layout, Budget.of(keep, self.at_least))

    def _rows(self, layout: Layout, budget: Budget) -> int:
        """Return the number of rows kept of an image, or of an adaptive method the most."""
        if budget.rows(len(layout)) >= len(layout):
            return len(layout)
        shares = share_out(layout, self.scope, self.newlines, budget)
        return sum(share.rows for share in shares) + len(kept_newlines(layout, self.newlines))

    def select(self, tokens: VisualTokens, keep: int | Budget, *, layer: int | None = None) -> Selection:
        """Score tokens and select the rows to keep of one image (or each image of a stack), for one cut.

        Parameters
        ----------
        tokens
            The image's tokens with the signals in `needs`.
        keep
            Rows to keep, as for `n_keep`; with `keep` >= N all rows are kept, or those that an adaptive
            method keeps without a limit.
        layer
            At the decoder stage, the layer before which the cut is made.

        Raises
        ------
        BudgetError
            When `keep` is not an integer of at least 1.
        IncompatibleError
            When a strategy does not take a stack of images, or the tokens lack a signal.
        InputError
            When rows of the tokens are not finite.
        PluginError
            When a strategy returns scores or a selection of the wrong size, or scores that are not finite.
        """
        tokens = tokens if layer is None else tokens.before_layer(layer)
        with without_autocast(tokens.features.device):
            return self._select(tokens, Budget.of(keep, self.at_least))

    def _select(self, tokens: VisualTokens, budget: Budget) -> Selection:
        pipeline, layout = self._pipeline, tokens.layout
        for part in pipeline.parts:
            if tokens.is_batch and not part.stacks:
                raise IncompatibleError(
                    f"the {part.kind} {part.name!r} takes one image at a time, (N, D), not a stack"
                )
        keeps_all = budget.rows(len(tokens)) >= len(tokens) and not self.adaptive
        if keeps_all or (layout.tiles is None and layout.newlines is None):
            scores, rows = pipeline.score(tokens), min(self._rows(layout, budget), len(tokens))
            if tokens.is_batch or layout.grid[0] == 1:
                return pipeline.choose(tokens, scores, rows)

            def best_of(slots: Tensor) -> int:
                slice_scores = None if scores is None else scores[slots.to(scores.device)]
                return int(pipeline.select(tokens.part(slots), slice_scores, 1).indices)

            return pipeline.choose(tokens, scores, rows, lambda kept: cover_slices(kept, layout, best_of))
        if tokens.is_batch:
            raise IncompatibleError("tiled images must be passed one at a time, (N, D), not as a stack")
        shares = share_out(layout, self.scope, self.newlines, budget)
        scores = pipeline.score(tokens.part(torch.cat([share.slots for share in shares])))
        sizes = [len(share.slots) for share in shares]
        part_scores = [None] * len(shares) if scores is None else torch.split(scores, sizes)
        parts = [tokens.part(share.slots, share.tile) for share in shares]
        choosers, keeps = pipeline.parts[1:], [share.rows for share in shares]
        selections = choose_parts(pipeline.choose, choosers, parts, part_scores, keeps)
        return join(shares, selections, kept_newlines(layout, self.newlines), tokens.features)
