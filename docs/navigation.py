# SPDX-License-Identifier: Apache-2.0
"""Order of the documentation's pages; a page that is not named here comes last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SECTIONS = {
    "Start": ("index", "quickstart", "demo", "concepts", "faq"),
    "Methods and models": ("methods", "models", "tower-cuts", "vision-towers"),
    "Command line": ("cli", "check", "calibrate", "visualize"),
    "Measurements": ("speed", "compare", "studies", "lmms-eval", "evaluation"),
    "Serving": ("serving", "sglang"),
    "Reliability": ("transformers", "reliability", "upstream", "releases"),
    "Extensions": ("writing-a-plugin", "writing-an-adapter", "hooks"),
    "Reference": ("reference", "signals", "api"),
    "More": (),
}
TITLES = {"methods": "Methods", "api": "Signatures"}


def navigation(pages: Sequence[str]) -> list[dict[str, Any]]:
    """Return the navigation, as mkdocs takes it.

    Parameters
    ----------
    pages
        Paths of all pages below docs, in the order in which pages of a folder are to stand (its index first).
    """
    groups: dict[str, list[str]] = {}
    for page in pages:
        groups.setdefault(page.split("/")[0].removesuffix(".md"), []).append(page)
    rest = [name for name in groups if not any(name in names for names in SECTIONS.values())]
    sections = []
    for title, names in SECTIONS.items():
        items: list[Any] = []
        for name in [*names, *(rest if title == "More" else ())]:
            folder = groups.get(name, [])
            if folder == [f"{name}.md"]:
                items += folder
            elif folder:
                folder = sorted(folder, key=lambda page: not page.endswith("/index.md"))
                items.append({TITLES.get(name, name.capitalize()): folder})
        if items:
            sections.append({title: items})
    return sections


def on_files(files: Any, config: Any) -> Any:
    """Set the navigation (called by mkdocs)."""
    config.nav = navigation([Path(file.src_uri).as_posix() for file in files.documentation_pages()])
    return files
