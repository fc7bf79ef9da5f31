# SPDX-License-Identifier: Apache-2.0
"""Write docs/studies.md from the records: `python -m pages.studies`, in the checkout.

The records are those of `python -m benchmarks.studies NAME --output docs/benchmarks/studies/NAME.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.catalogue import STUDIES
from benchmarks.studies.table import markdown, ranking_table, said, score_table
from pages.study_findings import FINDINGS, Figures

PAGE, RECORDS = Path("docs/studies.md"), Path("docs/benchmarks/studies")

HEAD = """# Studies

The studies of ZOO-Prune's paper (arXiv 2509.24837 and its supplement), repeated on the embedded model:
{count} questions about {scenes} that no training saw. This page is written by `python -m
pages.studies` from the records in `docs/benchmarks/studies`; each is made again by the
command above its tables, in a checkout, and on any other model with `--model`.

**right %**: answers that match exactly, with the 95 % interval of a bootstrap over pictures. Differences
are paired: the same questions, the same draws. One whose interval holds 0 is called noise. **Spearman**:
rank correlation of the scores of a picture's tokens, mean over the pictures, with quartiles. **Kept in
common**: share of the tokens that ZOO-Prune keeps by both, an eighth of all.

What is seen here is seen on one small model that reads drawn scenes. It was trained without any pruning, by
a recipe chosen on unpruned accuracy alone, and nothing was tuned for any outcome below. It shows how the
choices work, not which of them wins on photographs; for that, see the [recipes for published
benchmarks](evaluation.md).
"""

HOW = {
    "layers": """
        Tokens are chosen as ZOO-Prune does, but by S_i = 1/m Σ_j ‖F(X + h u_j)_i − F(X − h u_j)_i‖ /
        (2h), where F is one encoder layer, X all patch rows of the picture that enter it, each nudged
        along the same direction, and F(·)_i the row of token i that comes out. *Whole encoder* nudges
        what enters layer 1 and looks at what goes to the projector. m = 64, h = 0.01. The paper does not
        say how it measures a layer's sensitivity; this is our reading.""",
    "correlation": "The scores of the study above, ranked.",
    "sampling": """
        `zoo` with other numbers of directions m and steps h, against `zoo-exact`, the closed form of what
        it estimates.""",
    "combination": """
        Scores of `zoo-exact`. Product: ZOO-Prune's w_i · min over chosen j of (1 − cos(z_i, z_j)), w the
        min-max normalised score. Sum: w_i + that distance. Sensitivity alone: the highest scores.
        Diversity alone: DivPrune's choice.""",
    "normalise": """
        Scores of `zoo-exact` as weights of the distances: min-max normalised, or divided by the largest.""",
    "positions": "`zoo-exact`, its kept tokens renumbered (contiguous) or where they stood (original).",
    "precision": """
        *Model in ...*: the whole model in that format, scored with float32 differences as always.
        *Differences in ...*: rows, directions, perturbed rows, the projector and the differences rounded
        to that format, as in the official code, on the float32 model. Answers are the float32 model's.""",
}


def load() -> dict[str, dict[str, Any]]:
    """All records, in the order of the catalogue."""
    return {name: json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8")) for name in STUDIES}


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as it shall stand."""
    first = next(iter(records.values()))["questions"]
    parts = [HEAD.format(scenes=first["name"], count=first["count"])]
    parts += [section(name, record) for name, record in records.items()]
    parts += [f"Made with {line}.\n" for line in dict.fromkeys(map(_origin, records.values()))]
    return "\n".join(parts)


def section(name: str, record: Mapping[str, Any]) -> str:
    """One study: question, how, tables, what was seen."""
    study = STUDIES[name]
    lines = [
        f"## {study.title}",
        "",
        f"*{study.asks}* {_plain(HOW[name])}",
        "",
        "```bash",
        record["command"],
        "```",
        "",
    ]
    for table in (score_table(record), ranking_table(record)):
        if table[1]:
            lines += [markdown(table), ""]
    lines += [*verdicts(record), "**What we saw.** " + _plain(FINDINGS[name](Figures(record))), ""]
    return "\n".join(lines)


def verdicts(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each budget: who is better than the base, worse, or within noise."""
    lines = []
    for kept in dict.fromkeys(cell["kept"] for cell in record["cells"] if cell["above_base"] is not None):
        own = [cell for cell in record["cells"] if cell["kept"] == kept and cell["above_base"] is not None]
        groups = {
            word: [c["variant"] for c in own if said(c["above_base"]) == word]
            for word in ("better", "worse", "noise")
        }
        told = [f"{word}: {', '.join(names)}" for word, names in groups.items() if names]
        lines.append(f"- {kept:g} tokens, against {record['base']}: {'; '.join(told)}.")
    return [*lines, ""] if lines else []


def _origin(record: Mapping[str, Any]) -> str:
    versions, machine = record["versions"], record["machine"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers"))
    return f"{named}; {machine['threads']} of {machine['cores']} cores, {machine['processor']}"


def _plain(text: str) -> str:
    """A paragraph on one line."""
    return " ".join(text.split())


def main() -> None:
    """Write the page."""
    if not PAGE.parent.is_dir():
        sys.exit(f"run this in the checkout: there is no {PAGE.parent} here")
    PAGE.write_text(page(load()), encoding="utf-8")


if __name__ == "__main__":
    main()
