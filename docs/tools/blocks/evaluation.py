# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/evaluation.md, and docs/data/commands.csv.

The figures are those of `docs/data/table-*.csv`, transcribed from the supplement of the ZOO-Prune paper.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from tokenprune_evaluation.tables import Table

import tokenprune
from tokenprune.schedule import mean_rows

from .sources import DOCS, Blocks, render

DATA = DOCS / "data"
NOT_ATTEMPTED = "not attempted here"


@dataclass(frozen=True)
class PublishedTable:
    """A published table: its model, how that is loaded, and its decoder layers."""

    name: str
    model: str
    loading: str
    layers: int

    @property
    def path(self) -> Path:
        """The figures."""
        return DATA / f"{self.name}.csv"


LLAVA = "dtype=float16,system_prompt=vicuna_v1,pad_to_square=true"
TABLES = {
    table.name: table
    for table in (
        PublishedTable("table-b", "LLaVA-1.5-7B", f"pretrained=llava-hf/llava-1.5-7b-hf,{LLAVA}", 32),
        PublishedTable("table-c", "LLaVA-1.5-13B", f"pretrained=llava-hf/llava-1.5-13b-hf,{LLAVA}", 40),
        PublishedTable(
            "table-d",
            "LLaVA-NeXT-7B",
            "pretrained=llava-hf/llava-v1.6-vicuna-7b-hf,dtype=float16,system_prompt=vicuna_v1",
            32,
        ),
    )
}
# The rows as the page names them, and what runs them; an encoder layer's sensitivity is no scorer.
PRUNING = {
    "FastV": "method=fastv,keep={},budget=average",
    "SparseVLM": "method=sparsevlm,keep={},budget=paper",
    "VisionZip": "method=visionzip,keep={}",
    "DivPrune": "method=divprune,keep={}",
    "ZOO-Prune": "method=zoo-prune,keep={}",
    "Projector": "method=zoo-prune,keep={}",
}
# The supplement says the shares and no figures; pixels are bounded as in lmms-eval's own Qwen2.5-VL.
QWEN = "Qwen2.5-VL-7B"
QWEN_LOADING = "pretrained=Qwen/Qwen2.5-VL-7B-Instruct,dtype=bfloat16,min_pixels=200704,max_pixels=1605632"
QWEN_PRUNING = {
    "100 %": "method=unpruned",
    "20 %": "method=zoo-prune,keep_ratio=0.2",
    "10 %": "method=zoo-prune,keep_ratio=0.1",
}
RUN = "lmms-eval --model tokenprune --model_args {} --tasks {} --batch_size 1 --log_samples --output_path out"


@dataclass(frozen=True)
class Row:
    """One row of a published table: benchmark to figure, as printed."""

    table: PublishedTable
    tokens: int
    method: str
    figures: dict[str, str]
    average: str

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is pruned."""
        return self.method == self.table.model

    @property
    def pruning(self) -> str | None:
        """What `--model_args` says of pruning, None for a row that this package cannot run."""
        if self.is_baseline:
            return "method=unpruned"
        pruning = PRUNING.get(self.method)
        return None if pruning is None else pruning.format(self.tokens)

    def command(self, task: str) -> str | None:
        """The command of one cell."""
        return None if self.pruning is None else RUN.format(f"{self.table.loading},{self.pruning}", task)

    def rows_entering(self) -> float | None:
        """Mean visual rows that enter a layer of the language model when this package runs it."""
        if self.pruning is None or self.is_baseline:
            return None if self.pruning is None else self.tokens
        options = dict(part.split("=") for part in self.pruning.split(","))
        schedule = tokenprune.method(options["method"]).schedule
        if schedule is None:
            return self.tokens
        cuts = schedule.cuts(self.tokens, 576, self.table.layers, options["budget"])
        return mean_rows(cuts, 576, self.table.layers)


def records(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(table: PublishedTable) -> list[Row]:
    """Rows of a published table."""
    lines = []
    for line in records(table.path):
        tokens, method, average = (line.pop(name) for name in ("tokens", "method", "average"))
        lines.append(Row(table, int(tokens), method, line, average))
    return lines


def find_row(table: str, method: str, tokens: str | int) -> Row:
    """One row of a published table."""
    for row in rows(TABLES[table]):
        if (row.method, row.tokens) == (method, int(tokens)):
            return row
    raise ValueError(f"{table} has no row of {method} at {tokens} tokens")


BENCHMARKS = {line["column"]: line for line in records(DATA / "benchmarks.csv")}


def benchmarks() -> str:
    """Table A, and what of lmms-eval gives each figure."""
    heads = ("column", "benchmark", "metric", "task of lmms-eval", "figure in its results")
    lines = [
        (name, line["benchmark"], line["metric"], f"`{line['task']}`", line["result"])
        for name, line in BENCHMARKS.items()
    ]
    return Table(heads, lines, align="lllll").markdown()


def published(name: str) -> str:
    """The published figures of a table with what runs each row."""
    table, lines = TABLES[name], []
    for row in rows(table):
        entering = row.rows_entering()
        here = ("", "") if entering is None else (f"`{row.pruning}`", f"{entering:.1f}")
        lines.append((str(row.tokens), row.method, *row.figures.values(), row.average, *here, NOT_ATTEMPTED))
    columns = list(rows(table)[0].figures)
    heads = ("tokens", "method", *columns, "average, %", "pruning", "rows entering a layer", "measured")
    align = "rl" + "r" * (len(columns) + 1) + "lrl"
    return render("published", loading=table.loading, table=Table(heads, lines, align=align).markdown())


def rows_entering(table: str, method: str, tokens: str) -> str:
    """Mean visual rows that enter a layer, as in "82.2"."""
    return f"{find_row(table, method, tokens).rows_entering():.1f}"


def commands() -> str:
    """One line a cell, as CSV: what was published, and the command that measures it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("table", "model", "tokens", "method", "benchmark", "published", "measured", "command"))
    for table in TABLES.values():
        for row in rows(table):
            for name, figure in row.figures.items():
                command = row.command(BENCHMARKS[name]["task"])
                if command is not None:
                    where = (table.name, table.model, row.tokens, row.method, name)
                    writer.writerow((*where, figure, NOT_ATTEMPTED, command))
    for share, pruning in QWEN_PRUNING.items():
        method = "ZOO-Prune" if "zoo-prune" in pruning else QWEN
        for name in rows(TABLES["table-b"])[0].figures:
            command = RUN.format(f"{QWEN_LOADING},{pruning}", BENCHMARKS[name]["task"])
            writer.writerow(("", QWEN, share, method, name, "", NOT_ATTEMPTED, command))
    return text.getvalue()


def qwen() -> str:
    """What runs Qwen2.5-VL at the supplement's shares."""
    lines = "\n".join(f"{QWEN_LOADING},{pruning}" for pruning in QWEN_PRUNING.values())
    return f"```text\n{lines}\n```"


def command(table: str, method: str, tokens: str, benchmark: str) -> str:
    """The command of one cell, in full."""
    line = find_row(table, method, tokens).command(BENCHMARKS[benchmark]["task"])
    lines = str(line).replace(" --", " \\\n    --")
    return f"```bash\n{lines}\n```"


def figure(table: str, method: str, tokens: str, benchmark: str) -> str:
    """A published figure, as printed."""
    return find_row(table, method, tokens).figures[benchmark]


BLOCKS: Blocks = {
    "figure": figure,
    "command": command,
    "benchmarks": benchmarks,
    "published": published,
    "rows-entering": rows_entering,
    "qwen": qwen,
}
