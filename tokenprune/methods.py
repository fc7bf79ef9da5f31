# SPDX-License-Identifier: Apache-2.0
"""A method: a named combination of scorer, selector and optional reducer, with the settings of its paper."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from .budget import Budget
from .covering import Cover
from .errors import OptionError
from .lookup import default_lookup
from .option_types import check_one_of, check_types
from .pipeline import Pipeline
from .precision import without_autocast
from .rule_schedule import check_rule_of_schedule
from .schedule import BUDGET_UNITS, Schedule, at_layers
from .select_image import ImageSelector
from .selection import Selection
from .stack import selections_of
from .strategy import Reducer, Scorer, Selector, Strategy, check_options
from .tokens import Layout, VisualTokens

STAGES = ("vision", "projector", "decoder")
SCOPES = ("image", "tile", "split")  # see tokenprune.scope


@dataclass(frozen=True)
class Method:
    """How visual tokens are scored, selected and cut.

    `scorer`, `selector` and `reducer` are names or instances. `positions` is `"contiguous"` (kept tokens
    are renumbered), `"original"` (they keep their positions) or None (the model's default). `deviations`
    lists the intended differences from the official code. The method's documentation page has more.
    `scope` says how tiled images share a budget: all their tokens compete (`"image"`), or it is divided
    equally among the tiles, at the model's full number of tiles (`"tile"`) or the image's own (`"split"`).
    `variant_of` names the method that this one stands in for on models that the other does not run on.
    `then` is a method at a later stage that cuts what this one leaves, at least the share `at_least`.
    At the decoder stage, `schedule` sets the layers of the cuts and the rows left after each, and `budget`
    what `keep` counts there (see `Schedule.cuts`); with `trim_early_cache`, dropped tokens also leave the
    caches of the layers before the cut once the prompt was read, so that decoding sees them in no layer.
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
    trim_early_cache: bool = False

    def __post_init__(self) -> None:
        check_one_of("stage", self.stage, STAGES)
        check_one_of("budget", self.budget, BUDGET_UNITS)
        check_one_of("positions", self.positions, (None, "contiguous", "original"))
        check_one_of("scope", self.scope, SCOPES)
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

    @property
    def _image_selector(self) -> ImageSelector:
        return ImageSelector(self._pipeline, self.scope, self.newlines)

    def check_rule(self, rule: Cover) -> None:
        """Raise if this method cannot keep as many tokens as a rule says.

        Raises
        ------
        IncompatibleError
            For a reducer, a selector that does not pick tokens one by one, or a schedule that sets numbers.
        """
        self._pipeline.check_rule(rule, self._pipeline.scorer.gives_scores)
        if self.schedule is not None and self.stage != "projector":
            check_rule_of_schedule(self.name, self.schedule, self.budget, rule)

    def n_keep(self, layout: Layout, keep: int | Budget) -> int | None:
        """Return the number of rows kept of an image with this layout; None if it depends on the picture.

        Parameters
        ----------
        keep
            The budget as `apply` takes it; for tiled images in scope `"tile"` a count is the budget at the
            model's full number of tiles.
        """
        budget = Budget.of(keep, self.at_least)
        is_open = self.adaptive or budget.rule is not None
        return None if is_open else self._image_selector.rows(layout, budget)

    def select(self, tokens: VisualTokens, keep: int | Budget, *, layer: int | None = None) -> Selection:
        """Score tokens and select the rows to keep of one image (or each image of a stack), for one cut.

        Parameters
        ----------
        tokens
            The image's tokens with the signals in `needs`.
        keep
            Rows to keep, as for `n_keep`; with `keep` >= N all rows are kept, or those that an adaptive
            method keeps without a limit. With a rule, only one image is taken.
        layer
            At the decoder stage, the layer before which the cut is made.

        Raises
        ------
        BudgetError
            When `keep` is not an integer of at least 1, or a rule.
        IncompatibleError
            When a strategy does not take a stack of images or a rule, or the tokens lack a signal.
        InputError
            When rows of the tokens are not finite.
        PluginError
            When a strategy returns scores or a selection of the wrong size, or scores that are not finite.
        """
        tokens = tokens if layer is None else tokens.before_layer(layer)
        with without_autocast(tokens.features.device):
            return self._image_selector.select(tokens, Budget.of(keep, self.at_least))

    def select_stack(
        self, tokens: VisualTokens, keep: int | Budget, *, layer: int | None = None
    ) -> list[Selection]:
        """Select from each image of a stack of images without tiles, together; see `select`.

        With a rule their numbers of rows may differ.
        """
        budget = Budget.of(keep, self.at_least)
        if budget.rule is None:
            return selections_of(self.select(tokens, keep, layer=layer))
        tokens = tokens if layer is None else tokens.before_layer(layer)
        with without_autocast(tokens.features.device):
            return self._image_selector.select_stack(tokens, budget.rule, budget)
