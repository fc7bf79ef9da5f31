# SPDX-License-Identifier: Apache-2.0
"""`tokenprune list`: list the names of methods, scorers, selectors, reducers and adapters."""

from __future__ import annotations

import difflib
import json
import textwrap
from typing import Annotated, Any

import typer

from tokenprune_cli.console import options
from tokenprune_cli.console.failures import BadInputError, plain_errors

MARGIN = "  "
NAME_WIDTH = 14  # columns for names, at least
KINDS = ("methods", "scorers", "selectors", "reducers", "adapters")


def list_names(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; default: all.")] = None,
    as_json: options.OnlyJson = False,
) -> None:
    """List methods, scorers, selectors, reducers and model adapters."""
    with plain_errors():
        kinds = KINDS if kind is None else (_kind(kind),)
        entries = {name: _entries(name.removesuffix("s")) for name in kinds}
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name in kinds:
        if not entries[name] and kind is None:
            continue
        console.print(name, style="bold")
        listed = entries[name] or [{"name": "none installed", "about": "", "distribution": ""}]
        indent = max(NAME_WIDTH, *(len(entry["name"]) for entry in listed)) + len(MARGIN) + 1
        for entry in listed:
            console.print(_text(entry, indent, console.width))


def _text(entry: dict[str, Any], indent: int, width: int) -> str:
    """Return the lines of an entry: its name beside what it is and, of a method, its stage and signals."""
    paragraphs = [entry["about"] + _source(entry)]
    if "stages" in entry:
        paragraphs.append(f"stage {', then '.join(entry['stages'])}; {_signals(entry['signals'])}")
    wrapper = textwrap.TextWrapper(
        max(width, indent + NAME_WIDTH),
        initial_indent=" " * indent,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    text = "\n".join(wrapper.fill(paragraph) for paragraph in paragraphs)
    return f"{MARGIN}{entry['name']}".ljust(indent) + text[indent:]


def _signals(names: list[str] | None) -> str:
    if names is None:
        return "a part of it cannot be loaded, see tokenprune plugins"
    return f"signals {', '.join(names)}" if names else "no signals"


def _kind(name: str) -> str:
    for kind in KINDS:
        if name.lower() in (kind, kind.removesuffix("s")):
            return kind
    close = difflib.get_close_matches(name.lower(), KINDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BadInputError(f"there is no kind {name!r} to list.{hint} Kinds: {', '.join(KINDS)}")


def _entries(kind: str) -> list[dict[str, Any]]:
    import tokenprune

    registry = tokenprune.default_registry()
    entries = []
    for name in registry.names(kind):
        try:
            item, plugin = registry.find(kind, name), registry.origin(kind, name)
        except tokenprune.PluginConflictError as error:
            entries.append({"name": name, "about": str(error), "distribution": "", "plugin": ""})
            continue
        about = getattr(item, "title", "") or (item.__doc__ or "").strip().split("\n")[0]
        entry = {"name": name, "about": about, "distribution": plugin.distribution, "plugin": plugin.name}
        entries.append({**entry, **_of_method(item)} if kind == "method" else entry)
    return entries


def _of_method(method: Any) -> dict[str, Any]:
    """Return the paper, the stages and the signals of a method; None for signals of a broken strategy."""
    import tokenprune

    try:
        cuts = [method]
        while (then := cuts[-1].then) is not None:
            cuts.append(tokenprune.method(then) if isinstance(then, str) else then)
        signals = sorted(frozenset().union(*(cut.needs for cut in cuts)))
    except tokenprune.TokenPruneError:
        return {"paper": method.paper, "stages": [method.stage], "signals": None}
    return {"paper": method.paper, "stages": [cut.stage for cut in cuts], "signals": signals}


def _source(entry: dict[str, Any]) -> str:
    """Write the paper, and the distribution unless it is ours."""
    notes = [entry.get("paper", "")]
    if entry["distribution"] not in ("tokenprune-vlm", ""):
        notes.append(f"from {entry['distribution']}")
    text = "; ".join(note for note in notes if note)
    return f" ({text})" if text else ""
