# SPDX-License-Identifier: Apache-2.0
"""Metadata that needs the repository's address: the project's links, and the readme with absolute links.

The address comes from the environment, as for the documentation (docs/releases.md). Without it, a build names
no addresses and takes the readme as it is. A build from a source distribution keeps what that one says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "TOKENPRUNE_REPOSITORY_URL"
DOCUMENTATION = "TOKENPRUNE_DOCUMENTATION_URL"
# blocks of code come first, so that what stands inside them is passed over
LINK = re.compile(
    r"^```.*?^```$|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", re.DOTALL | re.MULTILINE
)
ELSEWHERE = re.compile(r"[a-z]+:|#")


def address(variable: str) -> str | None:
    """Return the address that a variable of the environment holds, or None."""
    given = os.environ.get(variable, "")
    if given and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", given):
        raise ValueError(f"{variable} must be an address such as https://HOST/OWNER/NAME, not {given!r}")
    return given.rstrip("/") or None


def urls(repository: str, tag: str, documentation: str | None) -> dict[str, str]:
    """Return the links of the project's page on a package index."""
    return {
        "Homepage": repository,
        "Documentation": f"{documentation}/" if documentation else f"{repository}/tree/{tag}/docs",
        "Source": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
    }


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the files of a tag, and images to their bytes."""

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if target is None or ELSEWHERE.match(target):
            return link[0]
        folder = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({repository}/{folder}/{tag}/{target})"

    return LINK.sub(absolute, text)


class AddressHook(MetadataHookInterface):
    """Fills in `urls` and `readme`, which pyproject.toml declares dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Change the table `project` in place (called by hatchling)."""
        repository, tag = address(REPOSITORY), f"v{metadata['version']}"
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if repository:
            metadata["urls"] = urls(repository, tag, address(DOCUMENTATION))
            text = with_absolute_links(text, repository, tag)
        elif "readme" in metadata:  # of a source distribution
            return
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
