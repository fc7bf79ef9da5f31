# SPDX-License-Identifier: Apache-2.0
"""The engine's settings: `--hf-overrides '{"tokenprune": {"method": "zoo-exact", "keep": 64}}'`.

Everything that can be known without a model is refused here. Nothing of vLLM is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tokenprune import Budget, BudgetError, Cut, IncompatibleError, Layout, Method, OptionError, Reducer
from tokenprune.arguments import methods_from_arguments, seeded
from tokenprune.image_plan import plan_image
from tokenprune.scope import share_out

KEY = "tokenprune"
STRATEGY = ("method", "scorer", "selector", "reducer")
CHOICES = ("scope", "newlines", "positions")
KNOWN = (*STRATEGY, "options", *CHOICES, "seed", "keep", "keep_ratio", "max_keep", "min_tokens")
PER_REQUEST = ("keep", "keep_ratio")


@dataclass(frozen=True)
class Settings:
    """How an engine prunes.

    `budget` is what an image keeps, `most` what a request may ask for; `digest` tells apart configurations
    that keep other rows, and is part of the name of everything vLLM caches.
    """

    method: Method
    budget: Budget
    most: Budget
    min_tokens: int
    digest: str

    @classmethod
    def read(cls, config: Any) -> Settings | None:
        """Read the settings from a model's configuration; None if it has none.

        Raises
        ------
        UnknownNameError, OptionError, BudgetError, IncompatibleError
            Where it cannot be used; each says what to do.
        """
        given = getattr(config, KEY, None)
        return None if given is None else cls.of(given)

    @classmethod
    def of(cls, given: Any) -> Settings:
        """Return settings made of the value of "tokenprune"."""
        if not isinstance(given, Mapping):
            raise OptionError(
                f'"{KEY}" takes an object such as {{"method": "zoo-exact", "keep": 64}}, got {given!r}'
            )
        _refuse_unknown(given, KNOWN, f'"{KEY}"')
        method = _method(given)
        budget = Budget(given.get("keep"), given.get("keep_ratio"))
        most = budget if given.get("max_keep") is None else _max_keep(given["max_keep"])
        if budget.keep is not None and most.keep is not None and budget.keep > most.keep:
            raise BudgetError(f"keep={budget.keep} is above this engine's max_keep={most.keep}; lower keep")
        min_tokens = given.get("min_tokens", 0)
        if isinstance(min_tokens, bool) or not isinstance(min_tokens, int) or min_tokens < 0:
            raise BudgetError(f"min_tokens must be an integer, 0 or more, got {min_tokens!r}")
        text = json.dumps([version("tokenprune-vlm"), dict(given)], sort_keys=True, default=str)
        return cls(method, budget, most, min_tokens, hashlib.sha256(text.encode()).hexdigest()[:16])

    def asked(self, arguments: Mapping[str, Any]) -> Budget:
        """Return the budget of a request: its own `{"tokenprune": {"keep": 32}}`, else the engine's.

        Raises
        ------
        BudgetError
            Where the request's cannot be used.
        """
        request = arguments.get(KEY)
        if request is None:
            return self.budget
        if not isinstance(request, Mapping) or not request or set(request) - set(PER_REQUEST):
            raise BudgetError(
                f'a request may say {{"{KEY}": {{"keep": 32}}}} or {{"{KEY}": {{"keep_ratio": 0.1}}}} and '
                f"nothing else, got {request!r}"
            )
        return Budget(request.get("keep"), request.get("keep_ratio"))

    def rows(self, layout: Layout, budget: Budget) -> int:
        """Rows that stay of an image; vLLM asks before the tower runs."""
        if plan_image(Cut(self.method, budget, self.min_tokens), len(layout)).left_alone is not None:
            return len(layout)
        return self.method.n_keep(layout, budget)

    def rows_allowed(self, layout: Layout, budget: Budget) -> int:
        """The same, for a budget that a request may have brought.

        Raises
        ------
        BudgetError
            Where that is more than this engine allows, or the method cannot make so few rows.
        """
        rows, most = self.rows(layout, budget), self.rows(layout, self.most)
        if rows > most:
            raise BudgetError(
                f"{budget} is {rows} rows of a picture of {len(layout)}, this engine allows {most}; ask for "
                f'less, or start it with a higher "max_keep"'
            )
        reducer = self.method.reducer
        if rows < len(layout) and isinstance(reducer, Reducer):
            for share in share_out(layout, self.method.scope, self.method.newlines, budget):
                if share.rows < len(share.slots):
                    reducer.n_selected(share.rows, len(share.slots))  # refuses what it cannot split
        return rows


def without_ours(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Remove our entry from the arguments of an image processor."""
    return {name: value for name, value in arguments.items() if name != KEY}


def _method(given: Mapping[str, Any]) -> Method:
    """The configured method, with all its options."""
    if isinstance(given.get("method"), (list, tuple)):
        raise IncompatibleError("vLLM can cut once, before the language model; name one method")
    (method,) = methods_from_arguments(*(given.get(name) for name in STRATEGY))
    if method.stage != "projector":
        raise IncompatibleError(
            f"method {method.name!r} cuts at the stage {method.stage!r}; inside vLLM only methods that cut "
            f"before the language model can be used: every layer shares one key-value cache layout"
        )
    options = given.get("options", {})
    if not isinstance(options, Mapping):
        raise OptionError(f'"options" takes an object of the method\'s options, got {options!r}')
    chosen = {name: given[name] for name in CHOICES if name in given}
    return seeded(method.with_options(**options, **chosen).resolved(), given.get("seed", 0))


def _max_keep(given: Any) -> Budget:
    try:
        return Budget(given)
    except BudgetError:
        raise BudgetError(f"max_keep must be an integer of at least 1, got {given!r}") from None


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OptionError(f"{what} has no entry {', '.join(map(repr, unknown))}; it takes {', '.join(known)}")
