# SPDX-License-Identifier: Apache-2.0
"""`tokenprune plugins`: list the installed plugins, where they come from, and their problems."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer

from tokenprune_cli.console import options
from tokenprune_cli.console.failures import plain_errors

BROKEN = 1  # exit code if a plugin is broken
NAMESAKE = "tokenprune"  # an unrelated distribution on the package index, with our import name


def plugins(as_json: options.OnlyJson = False) -> None:
    """List installed plugins, their problems and conflicts; exit code 1 if one is broken."""
    with plain_errors():
        import tokenprune

        registry = tokenprune.default_registry()
    entries = [_entry(plugin) for plugin in registry.plugins]
    conflicts = registry.conflicts()
    warning = namesake_warning()
    if as_json:
        record = {"plugins": entries, "conflicts": conflicts, "warnings": [warning] if warning else []}
        typer.echo(json.dumps(record, indent=2))
    else:
        problems = [entry["problem"] for entry in entries]
        _show(entries, [sentence for sentence in [*problems, *conflicts, warning] if sentence])
    if any(entry["problem"] for entry in entries):
        raise typer.Exit(BROKEN)


def _show(entries: list[dict[str, Any]], sentences: list[str]) -> None:
    from rich.console import Console
    from tokenprune_evaluation.tables import Table

    console = Console()
    heads = ("plugin", "distribution", "version", "delivers", "state")
    rows = [
        [e["name"], e["distribution"], e["version"], ", ".join(e["delivers"]), e["state"]] for e in entries
    ]
    console.print(Table(heads, rows, align="lllll", wrap=True).rich())
    for sentence in sentences:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def namesake_warning() -> str | None:
    """Return a warning if the unrelated distribution `tokenprune` is installed, else None."""
    try:
        namesake_version = version(NAMESAKE)
    except PackageNotFoundError:
        return None
    return (
        f"The distribution {NAMESAKE!r} {namesake_version} is installed beside 'tokenprune-vlm'. It is an "
        "unrelated project with the same import name, and files of one may have replaced files of the other: "
        "uninstall both, then install 'tokenprune-vlm' again"
    )


def _entry(plugin: Any) -> dict[str, Any]:
    state = "broken" if plugin.problem else "switched off" if plugin.disabled else "loaded"
    delivers = [
        f"{hook.removeprefix('tokenprune_').removesuffix('s')} {item.name}"
        for hook, items in plugin.delivers.items()
        for item in items
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
