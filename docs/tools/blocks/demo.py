# SPDX-License-Identifier: Apache-2.0
"""Block of docs/demo.md: the demo's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tokenprune_cli.compare.table import percent
from tokenprune_evaluation.question_file import DEFAULT_METRIC
from tokenprune_evaluation.tables import Table

from .sources import DOCS, RECORDS, Blocks, read_record, render

RECORD = RECORDS / "demo.json"
PICTURES = {
    "zoo-exact.png": DOCS / "images" / "demo-zoo-exact.png",
    "all-methods-18-tokens.png": DOCS / "images" / "demo.png",
}


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


def copy_demo(output: Path) -> None:
    """Copy a demo's record into docs/, and two of its pictures in 256 colours: a method's and a budget's."""
    RECORD.write_text((output / RECORD.name).read_text(encoding="utf-8"), encoding="utf-8")
    for name, copy in PICTURES.items():
        with Image.open(output / name) as picture:
            picture.quantize(256, dither=Image.Dither.NONE).save(copy, optimize=True)


BLOCKS: Blocks = {"demo": demo}
