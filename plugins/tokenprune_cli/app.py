# SPDX-License-Identifier: Apache-2.0
"""The command line with all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from tokenprune_cli.commands.bench import bench
from tokenprune_cli.commands.calibrate import calibrate
from tokenprune_cli.commands.check import check
from tokenprune_cli.commands.compare import compare
from tokenprune_cli.commands.demo import demo
from tokenprune_cli.commands.listing import list_names
from tokenprune_cli.commands.new_plugin import new_plugin
from tokenprune_cli.commands.plugins import plugins
from tokenprune_cli.commands.run import run
from tokenprune_cli.commands.study import study
from tokenprune_cli.console.help import Command, Group

app = typer.Typer(
    cls=Group,
    help="Prune the visual tokens of vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo", cls=Command)(demo)
app.command("run", cls=Command)(run)
app.command("compare", cls=Command)(compare)
app.command("calibrate", cls=Command)(calibrate)
app.command("study", cls=Command, hidden=True)(study)  # until 0.3
app.command("bench", cls=Command)(bench)
app.command("check", cls=Command)(check)
app.command("list", cls=Command)(list_names)
app.command("plugins", cls=Command)(plugins)
app.command("new-plugin", cls=Command)(new_plugin)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"tokenprune-vlm {version('tokenprune-vlm')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune the visual tokens of vision-language models."""
