# SPDX-License-Identifier: Apache-2.0
"""Order of the documentation's pages; a page that is not named here comes after those that are."""

from __future__ import annotations

from typing import Any

ORDER = (
    "index",
    "quickstart",
    "demo",
    "concepts",
    "methods",
    "models",
    "tower-cuts",
    "cli",
    "check",
    "speed",
    "compare",
    "calibrate",
    "visualize",
    "lmms-eval",
    "evaluation",
    "studies",
    "serving",
    "sglang",
    "transformers",
    "reliability",
    "upstream",
    "vision-towers",
    "writing-a-plugin",
    "writing-an-adapter",
    "hooks",
    "reference",
)


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Sort the top level of the navigation (called by mkdocs)."""

    def place(item: Any) -> tuple[int, str]:
        name = item.file.name if item.is_page else str(item.title).lower()
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)

    nav.items.sort(key=place)
    return nav
