# SPDX-License-Identifier: Apache-2.0
"""Fill the generated parts of README.md: `python -m pages.readme [demo-output]`, in the checkout.

The demo's table and its provenance come from docs/benchmarks/demo.json, the catalogue of methods from what
is installed. Given a directory that `tokenprune demo` wrote, its record and its picture are taken over into
docs/ first. A part stands between two comments, ``<!-- NAME: generated -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tokenprune_cli.demo.table import markdown_table

import tokenprune

README, RECORD, METHOD_PAGES = Path("README.md"), Path("docs/benchmarks/demo.json"), Path("docs/methods")
PICTURE, PICTURE_BUDGET = Path("docs/images/demo.png"), 18


def filled(text: str, parts: Mapping[str, str]) -> str:
    """Replace the generated parts of a page.

    Parameters
    ----------
    text
        The page.
    parts
        Name of each part and what shall stand there.

    Raises
    ------
    ValueError
        When the page has no place for a part.
    """
    for name, content in parts.items():
        start, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no part between {start!r} and {end!r}")
        text = f"{before}{start}\n{content.strip()}\n{end}{after}"
    return text


def demo_part(record: Mapping[str, Any]) -> str:
    """Write the demo's table, what it says, and where it comes from."""
    versions, machine = record["versions"], record["machine"]
    count = record["held_out_scenes"]["count"]
    lines = [
        f"{record['questions']} questions about {count} pictures that no training saw; exact matches, with "
        "the standard error over pictures. The key-value cache is what a prompt's rows take in float32; the "
        "prefill is the arithmetic of the language model, by formula.",
        "",
        markdown_table(record),
        "",
        "What the demo itself says about it (a difference below two standard errors counts as noise):",
        "",
        *(f"- {verdict['sentence']}" for verdict in record["verdicts"]),
        f"- {record['closing_line']}",
        "",
        f"Measured with `{record['command']}` (methods' seed {record['seed']}) on {machine['cores']} "
        f"{machine['architecture']} CPU cores, {machine['system']}, Python {versions['python']}, PyTorch "
        f"{versions['torch']}, transformers {versions['transformers']}, tokenprune-vlm "
        f"{versions['tokenprune-vlm']}. The figures lie in [docs/benchmarks/demo.json]({RECORD}).",
    ]
    return "\n".join(lines)


def methods_part(pages: Iterable[str]) -> str:
    """List the installed methods, one line each, with a link to the page that explains it.

    Parameters
    ----------
    pages
        Names of the pages there are; a method without one of its own is on that of its family.
    """
    known = sorted(pages, key=len, reverse=True)
    lines = []
    for name in tokenprune.list_methods():
        method = tokenprune.method(name)
        page = next((page for page in known if name == page or name.startswith(f"{page}-")), None)
        link = f"[`{name}`]({METHOD_PAGES}/{page}.md)" if page else f"`{name}`"
        lines.append(f"- {link}: {method.title}; {method.paper or 'no paper'}")
    return "\n".join(lines)


def take_over(output: Path) -> None:
    """Copy a demo's record into docs/, and its picture of all methods at one budget in 256 colours."""
    for target in (RECORD, PICTURE):
        target.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text((output / RECORD.name).read_text(encoding="utf-8"), encoding="utf-8")
    with Image.open(output / f"all-methods-{PICTURE_BUDGET}-tokens.png") as picture:
        picture.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def main() -> None:
    """Rewrite README.md in the current directory."""
    if len(sys.argv) > 1:
        take_over(Path(sys.argv[1]))
    if not README.is_file() or not RECORD.is_file():
        sys.exit(f"run this in the checkout: there is no {README} or no {RECORD} here")
    parts = {
        "demo": demo_part(json.loads(RECORD.read_text(encoding="utf-8"))),
        "methods": methods_part(page.stem for page in METHOD_PAGES.glob("*.md")),
    }
    README.write_text(filled(README.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
