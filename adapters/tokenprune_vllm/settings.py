# SPDX-License-Identifier: Apache-2.0
"""The engine's settings: `--hf-overrides '{"tokenprune": {"method": "zoo-exact", "keep": 64}}'`.

`{"setting": "setting.json"}` takes them from a file of `tokenprune calibrate`.

Everything that does not depend on a model is validated here. This module does not import vLLM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tokenprune import (
    Budget,
    BudgetError,
    CalibratedSetting,
    Cover,
    Cut,
    IncompatibleError,
    Layout,
    Method,
    OptionError,
    Reducer,
)
from tokenprune.arguments import methods_from_arguments, seeded
from tokenprune.cut import refuse_adaptive
from tokenprune.image_plan import plan_image
from tokenprune.scope import share_out
from tokenprune.trimming import check_trimming

from .errors import MisplacedError

KEY = "tokenprune"
STRATEGY = ("method", "scorer", "selector", "reducer")
OVERRIDES = ("scope", "newlines", "positions", "stage", "layer")
ENTRIES = (*STRATEGY, "options", *OVERRIDES, "seed", "keep", "keep_ratio", "max_keep", "min_tokens")
REQUEST_ENTRIES = ("keep", "keep_ratio")
FILE = "setting"
BESIDE_FILE = ("max_keep", "min_tokens")  # entries that do not change what was calibrated
COUNTED_FIRST = "vLLM counts an image's placeholders before it looks at the picture"


@dataclass(frozen=True)
class Settings:
    """How an engine prunes.

    Parameters
    ----------
    method
        The method, with its options.
    budget
        The budget of each image, unless a request sets its own.
    max_budget
        The highest budget that a request may set.
    min_tokens
        Images with fewer tokens are not pruned.
    n_blocks
        Blocks of the vision tower, for a method that cuts inside it; 0 if not known yet.
    digest
        Hash of the configuration; part of the key of everything that vLLM caches, so that configurations
        that keep different rows never share an entry.
    """

    method: Method
    budget: Budget
    max_budget: Budget
    min_tokens: int
    digest: str
    n_blocks: int = 0

    @classmethod
    def read(cls, config: Any) -> Settings | None:
        """Read the settings from a model's configuration. Returns None if there are none.

        Raises
        ------
        UnknownNameError, OptionError, BudgetError, IncompatibleError, InputError
            If they are invalid, or in a setting file of another model.
        """
        return None if getattr(config, KEY, None) is None else cls.parse(entry_of(config))

    @classmethod
    def parse(cls, entry: Any) -> Settings:
        """Parse the value of "tokenprune"."""
        if not isinstance(entry, Mapping):
            raise OptionError(
                f'"{KEY}" takes an object such as {{"method": "zoo-exact", "keep": 64}}, got {entry!r}'
            )
        _refuse_unknown(entry, ENTRIES, f'"{KEY}"')
        method = _method(entry)
        budget = _budget(method, entry)
        max_budget = budget if entry.get("max_keep") is None else _max_keep(entry["max_keep"])
        if budget.keep is not None and max_budget.keep is not None and budget.keep > max_budget.keep:
            raise BudgetError(
                f"keep={budget.keep} is above this engine's max_keep={max_budget.keep}; lower keep"
            )
        min_tokens = entry.get("min_tokens", 0)
        if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 0:
            raise BudgetError(f"min_tokens must be an integer, 0 or more, got {min_tokens!r}")
        text = json.dumps([version("tokenprune-vlm"), dict(entry)], sort_keys=True, default=str)
        return cls(method, budget, max_budget, min_tokens, hashlib.sha256(text.encode()).hexdigest()[:16])

    def request_budget(self, arguments: Mapping[str, Any]) -> Budget:
        """Return the budget of a request: its own, `{"tokenprune": {"keep": 32}}`, or the engine's.

        Raises
        ------
        BudgetError
            If the request's own budget is invalid, or inside another argument.
        """
        refuse_nested(arguments, "the arguments of the processor")
        request = arguments.get(KEY)
        if request is None:
            return self.budget
        if not isinstance(request, Mapping) or not request or set(request) - set(REQUEST_ENTRIES):
            raise BudgetError(
                f'a request can only set {{"{KEY}": {{"keep": 32}}}} or {{"{KEY}": {{"keep_ratio": 0.1}}}}, '
                f"got {request!r}"
            )
        return _budget(self.method, request)

    @property
    def cuts_tower(self) -> bool:
        """Whether tokens are dropped inside the vision tower instead of after it."""
        return self.method.stage == "vision"

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The blocks of the tower before which tokens are dropped; none if they are not known yet."""
        schedule = self.method.schedule
        return schedule.boundaries(self.n_blocks) if schedule is not None and self.n_blocks else ()

    def cut(self, budget: Budget) -> Cut:
        """Return the cut with a budget."""
        return Cut(self.method, budget, self.min_tokens)

    def rows(self, layout: Layout, budget: Budget) -> int:
        """Return the number of rows that an image keeps. vLLM needs it before the tower runs."""
        plan = plan_image(self.cut(budget), len(layout), self.n_blocks)
        if plan.left_alone is not None:
            return len(layout)
        if self.cuts_tower:
            return plan.cuts[max(plan.cuts)]
        rows = self.method.n_keep(layout, budget)
        assert rows is not None  # `parse` refuses adaptive methods
        return rows

    def rows_allowed(self, layout: Layout, budget: Budget) -> int:
        """Return the number of rows that an image keeps, and validate a budget that a request may have set.

        Raises
        ------
        BudgetError
            If it is more than this engine allows, or fewer rows than the method can make.
        """
        rows, max_rows = self.rows(layout, budget), self.rows(layout, self.max_budget)
        if rows > max_rows:
            raise BudgetError(
                f"{budget} would keep {rows} of {len(layout)} rows, but this engine allows {max_rows}; "
                f'request fewer rows, or start the engine with a higher "max_keep"'
            )
        reducer = self.method.reducer
        if rows < len(layout) and isinstance(reducer, Reducer):
            for share in share_out(layout, self.method.scope, self.method.newlines, budget):
                if share.rows < len(share.slots):
                    reducer.n_selected(share.rows, len(share.slots))  # raises if it cannot split this number
        return rows


def refuse_nested(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse our entry inside another argument of a request, where it would be ignored."""
    for name, value in arguments.items():
        if name != KEY and isinstance(value, Mapping) and KEY in value:
            raise MisplacedError(
                f'"{KEY}" would be ignored in {name!r} of {where}; put it directly into the arguments of the '
                "processor"
            )


def without_pruning_entry(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an image processor without our entry."""
    return {name: value for name, value in arguments.items() if name != KEY}


def _method(entry: Mapping[str, Any]) -> Method:
    """Make the configured method, with all its options."""
    if isinstance(entry.get("method"), (list, tuple)):
        raise IncompatibleError(
            "inside vLLM tokens are pruned once, before the language model; give a single method"
        )
    (method,) = methods_from_arguments(*(entry.get(name) for name in STRATEGY))
    options = entry.get("options", {})
    if not isinstance(options, Mapping):
        raise OptionError(f'"options" takes an object of the method\'s options, got {options!r}')
    overrides = {name: entry[name] for name in OVERRIDES if name in entry}
    method = seeded(method.with_options(**options, **overrides).resolved(), entry.get("seed", 0))
    if method.stage not in ("vision", "projector"):
        raise IncompatibleError(
            f"method {method.name!r} cuts at the stage {method.stage!r}; inside vLLM only methods that cut "
            f"before the language model can be used, because all layers share one key-value cache layout"
        )
    check_trimming(method)
    if method.then is not None:
        raise IncompatibleError(
            f"method {method.name!r} cuts a second time ('then'); inside vLLM tokens are pruned once, before "
            "the language model; leave 'then' out"
        )
    refuse_adaptive(method, COUNTED_FIRST)
    return method


def entry_of(config: Any) -> Any:
    """Return the value of "tokenprune" in a model's configuration, with the contents of a setting file."""
    entry = getattr(config, KEY)
    if isinstance(entry, Mapping) and FILE in entry:
        return _from_file(entry, list(config.architectures or ()))
    return entry


def _from_file(entry: Mapping[str, Any], architectures: list[str]) -> dict[str, Any]:
    """Replace the path of a setting file by its contents; weights are not compared, only the architecture."""
    beside = {name: value for name, value in entry.items() if name != FILE}
    _refuse_unknown(beside, BESIDE_FILE, f'"{KEY}" with "{FILE}"')
    setting = CalibratedSetting.load(entry[FILE])
    setting.check_architecture(architectures)
    if "cover" in setting.arguments:
        raise IncompatibleError(
            f"the setting file '{entry[FILE]}' keeps as many tokens as cover each picture, but "
            f"{COUNTED_FIRST}; calibrate with counts"
        )
    return {**setting.arguments, **beside}


def _budget(method: Method, entry: Mapping[str, Any]) -> Budget:
    """Read a budget; refuse a rule, with which the number of rows depends on the picture."""
    keep = entry.get("keep")
    if isinstance(keep, (Budget, Cover)):
        refuse_adaptive(method, COUNTED_FIRST, Budget.of(keep))
    return Budget(keep, entry.get("keep_ratio"))


def _max_keep(max_keep: Any) -> Budget:
    try:
        return Budget(max_keep)
    except BudgetError:
        raise BudgetError(f"max_keep must be an integer of at least 1, got {max_keep!r}") from None


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise OptionError(
            f"{where} has no entry {', '.join(map(repr, unknown))}; it takes {', '.join(known)}"
        )
