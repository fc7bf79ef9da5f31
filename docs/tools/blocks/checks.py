# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/reliability.md: what `tokenprune check` found on the tiny models."""

from __future__ import annotations

from .sources import Blocks, read_record


def checks() -> str:
    """The number of checks that passed, the number of models, and the largest difference."""
    models = read_record("check")["models"].values()
    largest = max(model["largest"] for model in models)
    passed = sum(model["passed"] for model in models)
    return (
        f"{passed} checks on {len(models)} tiny models: identity and undo without any difference, all others "
        f"within {largest:.1e}".replace("e-0", "e-")
    )


BLOCKS: Blocks = {"checks": checks}
