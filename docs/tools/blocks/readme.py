# SPDX-License-Identifier: Apache-2.0
"""Blocks of README.md: the demo's results, and the catalogue of methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tokenprune_cli.compare.table import percent
from tokenprune_evaluation.question_file import DEFAULT_METRIC
from tokenprune_evaluation.tables import Table

import tokenprune

from .methods import page_of
from .sources import DOCS, RECORDS, ROOT, Blocks, read_record, render

RECORD = RECORDS / "demo.json"
PICTURE, PICTURE_BUDGET = DOCS / "images" / "demo.png", 18


def demo() -> str:
    """Table, verdicts and provenance of the demo's record."""
    record = read_record("demo")
    return render("demo", record=record, table=demo_table(record).markdown())


def demo_table(record: Mapping[str, Any]) -> Table:
    """A row for each method at each budget."""
    families = list(record["families"])
    rows = []
    for line in record["lines"]:
        score = line["scores"][DEFAULT_METRIC]
        rows.append(
            [
                line["method"] or "unpruned",
                f"{line['visual_rows']['by_layer'][-1][1]:.0f}",
                percent(score["value"]),
                f"{percent(score['low'])}..{percent(score['high'])}",
                *(percent(line["families"][family]["value"]) for family in families),
                f"{line['kv_bytes'] / 1000:.0f}",
                f"{line['flops']['language'] / 1e6:.0f}",
            ]
        )
    heads = ["method", "visual tokens", "right, %", "95 % interval", *families]
    return Table([*heads, "KV cache, kB", "prefill, MFLOP"], rows)


def catalogue() -> str:
    """The installed methods, one line each, with a link to the page that explains it."""
    lines = []
    for name in tokenprune.list_methods():
        method = tokenprune.method(name)
        page = page_of(name)
        link = f"[`{name}`]({page.relative_to(ROOT).as_posix()})" if page else f"`{name}`"
        lines.append(f"- {link}: {method.title}; {method.paper or 'no paper'}")
    return "\n".join(lines)


def copy_demo(output: Path) -> None:
    """Copy a demo's record into docs/, and its picture of all methods at one budget in 256 colours."""
    RECORD.write_text((output / RECORD.name).read_text(encoding="utf-8"), encoding="utf-8")
    with Image.open(output / f"all-methods-{PICTURE_BUDGET}-tokens.png") as picture:
        picture.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


BLOCKS: Blocks = {"demo": demo, "methods": catalogue}
