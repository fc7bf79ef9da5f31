# SPDX-License-Identifier: Apache-2.0
"""Links into the repository, if mkdocs.yml has its address: to a page's source, and to files a page names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REF = os.environ.get("TOKENPRUNE_REPOSITORY_REF") or "main"  # a release names its tag
# links and blocks of code come first, so that what stands inside them is passed over
CODE = re.compile(r"<a\b.*?</a>|<pre\b.*?</pre>|<code>(?P<path>[\w./-]+/[\w./-]+)</code>", re.DOTALL)


def linked(html: str, repository: str) -> str:
    """Return the page with each `path/of/a/file` that is one linked to it.

    Parameters
    ----------
    html
        The content of a page.
    repository
        Address of the repository.
    """

    def link(code: re.Match[str]) -> str:
        path = code["path"]
        if path is None or ".." in path or not (ROOT / path).is_file():
            return code[0]
        return f'<a href="{repository.rstrip("/")}/blob/{REF}/{path}">{code[0]}</a>'

    return CODE.sub(link, html)


def on_config(config: Any) -> Any:
    """Let pages link their source (called by mkdocs)."""
    config.edit_uri = f"edit/{REF}/docs/" if config.repo_url else None
    return config


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Link the files that a page names (called by mkdocs)."""
    return linked(html, config.repo_url) if config.repo_url else html
