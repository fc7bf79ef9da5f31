# SPDX-License-Identifier: Apache-2.0
"""Make a checkout's packages and entry points available where nothing can be installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT, ROOT / "plugins", ROOT / "adapters")


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which this checkout is imported first; writes its metadata to a folder."""
    write_metadata(folder)
    paths = [str(folder), *map(str, FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def write_metadata(folder: Path) -> None:
    """Write the metadata of an installation: name, version and entry points, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.M)
    assert version is not None
    points = []
    for table, body in re.findall(r"^\[project\.entry-points\.(.+)\]\n((?:\w+ = .*\n)+)", text, re.M):
        group = table.strip('"')
        points += [f"[{group}]", *re.sub(r'"(.*)".*', r"\1", body).splitlines(), ""]
    info = folder / f"tokenprune_vlm-{version[1]}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    head = f"Metadata-Version: 2.1\nName: tokenprune-vlm\nVersion: {version[1]}\n"
    (info / "METADATA").write_text(head, encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
