# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for authors of plugins and adapters: the checks of `tokenprune.testing` as one fixture.

pytest loads this module in every run where the distribution is installed, so that it imports nothing but
pytest until a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    import tokenprune
    from tokenprune.testing import ModelCheck


class Checks:
    """Contract checks; each raises AssertionError with the sentence that says what is broken."""

    def scorer(self, scorer: tokenprune.Scorer, tokens: tokenprune.VisualTokens | None = None) -> None:
        """Check a scorer; see `tokenprune.testing.check_scorer`."""
        from tokenprune.testing import check_scorer

        check_scorer(scorer, tokens)

    def selector(self, selector: tokenprune.Selector, tokens: tokenprune.VisualTokens | None = None) -> None:
        """Check a selector; see `tokenprune.testing.check_selector`."""
        from tokenprune.testing import check_selector

        check_selector(selector, tokens)

    def reducer(self, reducer: tokenprune.Reducer, tokens: tokenprune.VisualTokens | None = None) -> None:
        """Check a reducer; see `tokenprune.testing.check_reducer`."""
        from tokenprune.testing import check_reducer

        check_reducer(reducer, tokens)

    def method(self, method: tokenprune.Method, tokens: tokenprune.VisualTokens | None = None) -> None:
        """Check a method on bare tensors; see `tokenprune.testing.check_method`."""
        from tokenprune.testing import check_method

        check_method(method, tokens)

    def adapter(self, adapter: type[tokenprune.ModelAdapter], model: nn.Module | None = None) -> None:
        """Check an adapter's declarations; see `tokenprune.testing.check_adapter`."""
        from tokenprune.testing import check_adapter

        check_adapter(adapter, model)

    def model(self, model: nn.Module, inputs: Any = None, **options: Any) -> ModelCheck:
        """Check the promises on a model; see `tokenprune.testing.check_model`, which takes the same.

        Returns
        -------
        ModelCheck
            What was measured, when all was well.

        Raises
        ------
        AssertionError
            When a promise is broken, or nothing could be checked.
        """
        from tokenprune.testing import check_model

        found = check_model(model, inputs, **options)
        if not found.passed:
            raise AssertionError(str(found))
        return found


@pytest.fixture(scope="session")
def tokenprune_check() -> Checks:
    """The contract checks of `tokenprune.testing`: `.scorer(...)`, `.selector(...)`, `.model(...)` ..."""
    return Checks()
