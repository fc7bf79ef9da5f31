# SPDX-License-Identifier: Apache-2.0
"""`tokenprune study`, which has moved to the benchmarks of the repository; to be removed in 0.3."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenprune_cli.console.failures import BadInputError, plain_errors


def study(
    arguments: Annotated[list[str] | None, typer.Argument(help="The former arguments.")] = None,
) -> None:
    """Say how to run studies."""
    with plain_errors():
        words = " ".join(arguments or ["NAME"])
        raise BadInputError(
            f"studies are run in a checkout of the repository: python -m benchmarks.studies {words}"
        )
