# SPDX-License-Identifier: Apache-2.0
"""`tokenprune new-plugin`: write a package with a plugin to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenprune_cli.console.failures import plain_errors
from tokenprune_cli.new_plugin.names import Kind, Names


def new_plugin(
    name: Annotated[
        str, typer.Argument(help="Name of the scorer, selector, method or adapter, and of its directory.")
    ],
    kind: Annotated[Kind, typer.Option(help="What the plugin provides.")] = Kind.scorer,
) -> None:
    """Write a package with a plugin, its test and its page into a new directory."""
    folder = Path(name)
    names = Names(name, kind)
    with plain_errors():
        from tokenprune_cli.new_plugin.package import files_of, write_package

        names.check(folder)
        files = files_of(names)
        write_package(folder, files)
    for path in files:
        typer.echo(str(folder / path))
    typer.echo(
        f"\nInstall the package with `pip install -e .` in {name}, then `tokenprune plugins` lists it and "
        "`python -m pytest` tests it."
    )
