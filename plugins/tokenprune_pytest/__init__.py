# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for authors of plugins and adapters: a fixture with the checks of `tokenprune.testing`.

pytest loads this module in every run where the distribution is installed, so tokenprune is imported only when
a check is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    import tokenprune
    from tokenprune.testing import ModelCheck


class Checks:
    """Contract checks. Each raises an AssertionError that names the broken promise."""

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
        """Check the promises on a model, with the arguments of `tokenprune.testing.check_model`.

        Returns
        -------
        ModelCheck
            The records of the check, if it passed.

        Raises
        ------
        AssertionError
            When a promise is broken, or nothing could be checked.
        """
        from tokenprune.testing import check_model

        result = check_model(model, inputs, **options)
        if not result.passed:
            raise AssertionError(str(result))
        return result


@pytest.fixture(scope="session")
def tokenprune_check() -> Checks:
    """Return the contract checks of `tokenprune.testing`: `.scorer(...)`, `.model(...)` and others."""
    return Checks()
