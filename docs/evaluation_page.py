# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/evaluation.md and docs/data/commands.csv: `python docs/evaluation_page.py`.

The figures are those of `docs/data/table-*.csv`, transcribed from the supplement of the ZOO-Prune paper.
"""

from __future__ import annotations

import csv
import functools
import io
import re
from dataclasses import dataclass
from pathlib import Path

import tokenprune
from tokenprune.schedule import mean_rows

DOCS = Path(__file__).parent
PAGE, DATA = DOCS / "evaluation.md", DOCS / "data"
COMMANDS = DATA / "commands.csv"
MARKS = "<!-- {}: written by docs/evaluation_page.py -->", "<!-- end of {} -->"
NOT_ATTEMPTED = "not attempted here"


@dataclass(frozen=True)
class Table:
    """A published table: its model, how that is loaded, and its decoder layers."""

    name: str
    model: str
    loading: str
    layers: int

    @property
    def path(self) -> Path:
        """The figures."""
        return DATA / f"{self.name}.csv"


LLAVA = "dtype=float16,system_prompt=vicuna_v1.txt,pad_to_square=true"
TABLES = {
    table.name: table
    for table in (
        Table("table-b", "LLaVA-1.5-7B", f"pretrained=llava-hf/llava-1.5-7b-hf,{LLAVA}", 32),
        Table("table-c", "LLaVA-1.5-13B", f"pretrained=llava-hf/llava-1.5-13b-hf,{LLAVA}", 40),
        Table(
            "table-d",
            "LLaVA-NeXT-7B",
            "pretrained=llava-hf/llava-v1.6-vicuna-7b-hf,dtype=float16,system_prompt=vicuna_v1.txt",
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

    table: Table
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


def rows(table: Table) -> list[Row]:
    """Rows of a published table."""
    found = []
    for line in records(table.path):
        tokens, method, average = (line.pop(name) for name in ("tokens", "method", "average"))
        found.append(Row(table, int(tokens), method, line, average))
    return found


BENCHMARKS = {line["column"]: line for line in records(DATA / "benchmarks.csv")}


def benchmarks_part() -> str:
    """Table A, and what of lmms-eval gives each figure."""
    lines = [("column", "benchmark", "metric", "task of lmms-eval", "figure in its results"), ("---",) * 5]
    for name, one in BENCHMARKS.items():
        lines.append((name, one["benchmark"], one["metric"], f"`{one['task']}`", one["result"]))
    return _markdown(lines)


def table_part(table: Table) -> str:
    """The published figures of a table with what runs each row."""
    found = rows(table)
    columns = list(found[0].figures)
    head = ("tokens", "method", *columns, "average, %", "pruning", "rows entering a layer", "measured")
    lines = [head, ("---:", "---", *("---:",) * (len(columns) + 1), "---", "---:", "---")]
    for row in found:
        entering = row.rows_entering()
        here = ("", "") if entering is None else (f"`{row.pruning}`", f"{entering:.1f}")
        lines.append((str(row.tokens), row.method, *row.figures.values(), row.average, *here, NOT_ATTEMPTED))
    loading = f"`--model_args` of a row is this, a comma, and its pruning:\n\n```text\n{table.loading}\n```"
    return f"{loading}\n\n{_markdown(lines)}"


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


def qwen_part() -> str:
    """What runs Qwen2.5-VL at the supplement's shares."""
    lines = "\n".join(f"{QWEN_LOADING},{pruning}" for pruning in QWEN_PRUNING.values())
    return f"```text\n{lines}\n```"


def example() -> str:
    """The command of one cell, in full."""
    row = next(row for row in rows(TABLES["table-b"]) if (row.method, row.tokens) == ("ZOO-Prune", 64))
    command = str(row.command("gqa")).replace(" --", " \\\n    --")
    return f"ZOO-Prune at 64 tokens on GQA, published {row.figures['GQA']}:\n\n```bash\n{command}\n```"


PARTS = {
    "example": example,
    "benchmarks": benchmarks_part,
    **{name: functools.partial(table_part, table) for name, table in TABLES.items()},
    "qwen": qwen_part,
}


def written(page: str) -> str:
    """Return the page's text with its parts as they should be."""
    for name, make in PARTS.items():
        start, end = (mark.format(name) for mark in MARKS)
        inner = re.compile(f"(?<={re.escape(start)}).*?(?={re.escape(end)})", re.S)
        if not inner.search(page):
            raise ValueError(f"{PAGE.name} has no place for the part {name!r}: {start} ... {end}")
        before, after = inner.split(page, maxsplit=1)
        page = f"{before}\n\n{make()}\n\n{after}"
    return page


def _markdown(lines: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    COMMANDS.write_text(commands(), encoding="utf-8")
