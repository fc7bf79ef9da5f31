# SPDX-License-Identifier: Apache-2.0
"""`tokenprune plugins`: which plugins are installed, where they come from, and what is wrong with them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from tokenprune_cli.console.failures import plain_errors
from tokenprune_cli.console.options import OnlyJson

NAMESAKE = "tokenprune"  # an unrelated distribution on the package index, with our import name


def plugins(
    as_json: OnlyJson = False,
) -> None:
    """Show installed plugins, their problems and conflicts."""
    with plain_errors():
        import tokenprune

        registry = tokenprune.default_registry()
    entries = [_entry(plugin) for plugin in registry.plugins]
    conflicts = registry.conflicts()
    warning = namesake_warning()
    if as_json:
        record = {"plugins": entries, "conflicts": conflicts, "warnings": [warning] if warning else []}
        typer.echo(json.dumps(record, indent=2))
        return
    from rich.console import Console

    from tokenprune_cli.tables import Table

    console = Console()
    heads = ("plugin", "distribution", "version", "delivers", "state")
    rows = [
        [e["name"], e["distribution"], e["version"], ", ".join(e["delivers"]), e["state"]] for e in entries
    ]
    console.print(Table(heads, rows, align="lllll", wrap=True).rich())
    for sentence in [*(entry["problem"] for entry in entries if entry["problem"]), *conflicts, warning]:
        if sentence:
            console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def namesake_warning() -> str | None:
    """Warn when the unrelated distribution `tokenprune` is installed beside `tokenprune-vlm`."""
    try:
        found = version(NAMESAKE)
    except PackageNotFoundError:
        return None
    return (
        f"The distribution {NAMESAKE!r} {found} is installed beside 'tokenprune-vlm'. It is an unrelated "
        f"project with the same import name, and files of one may have replaced files of the other: "
        f"uninstall both, then install 'tokenprune-vlm' again"
    )


def _entry(plugin: Any) -> dict[str, Any]:
    state = "broken" if plugin.problem else "switched off" if plugin.disabled else "loaded"
    delivers = [
        f"{hook.removeprefix('tokenprune_').removesuffix('s')} {thing.name}"
        for hook, things in plugin.delivers.items()
        for thing in things
    ]
    return {
        "name": plugin.name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "hooks": list(plugin.hooks),
        "delivers": delivers,
        "state": state,
        "problem": plugin.problem,
    }
