# SPDX-License-Identifier: Apache-2.0
"""Write docs/speed.md from the committed records: `python -m pages.speed`, in the checkout.

The records are those of `tokenprune bench --output docs/benchmarks/<preset>.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune_cli.bench.presets import PRESETS
from tokenprune_cli.bench.table import EXPLANATION, markdown_table

from benchmarks.official.sentences import official_lines
from pages.speed_goals import goals, official_goals

PAGE, RECORDS = Path("docs/speed.md"), Path("docs/benchmarks")

HEAD = """# Speed

This page is written by `python -m pages.speed` from the records in `docs/benchmarks`. Any
of them can be made again: `tokenprune bench --preset NAME --output docs/benchmarks/NAME.json`. Weights are
random, on which speed does not depend; all figures of a table come from one run, in which the contenders
take turns.

The figure to look at is **vs oracle**: the time of the pruned run by that of the same model fed only what
is kept, from the start. 1 is the best that any pruning could do on that model; what is above 1 is what
choosing costs. For methods that cut inside the language model the layers before the cut are counted in
full, in their oracle too.
"""

READING = """## Reading the figures

- **Pruning shortens the prefill, not the tower.** The vision tower sees the whole picture before anything
  is chosen. Where the tower is large beside the language model's prefill (Qwen2.5-VL with large pictures),
  the tower is the limit: compare *vs oracle* with *without tower*. A smaller picture (`downsample`) saves
  in the tower too, which pruning cannot.
- **Decoding gains little.** A step of decoding reads all weights of the model for each token, whatever the
  cache holds. A shorter cache helps where it is large beside the weights: large batches, long prompts, and
  models with as many key-value heads as heads. With grouped queries (Qwen2.5-VL: 4 of 28 heads) the cache
  is small to begin with.
- **Long answers dilute the gain**: the more new tokens, the nearer the whole answer's time is to the
  unpruned one's.
- **`zoo-prune` is the reference, not the fast way.** The paper's estimator pushes every token through the
  projector along 64 directions: 64 N d_h d multiplications, however they are arranged. `zoo-exact` computes
  what it estimates.
- On a GPU the reported time of choosing inside the language model is the host's.
"""

ON_A_GPU = """## On your GPU

No figure on this page is of a GPU: none was at hand. In a checkout, on any machine with an NVIDIA GPU,

    benchmarks/gpu/run.sh --out DIR

runs first the tests that need one (the promises in bfloat16 and float16 on tiny models, under PyTorch's
attention and under flash attention; strategies and the fused kernel against their CPU results), then
`tokenprune bench` in bfloat16 at the sizes of llava-1.5-7b, llava-next-7b and qwen2.5-vl-7b, each at batch
sizes 1 and 8: unpruned, downsample, zoo-exact, divprune, visionzip, fastv and the oracles. The largest,
LLaVA-NeXT at batch size 8, needs about 27 GiB of GPU memory.

- Nothing is installed or fetched: Python 3.10 or newer with torch, transformers, pytest, hypothesis, typer,
  rich and pluggy is enough. `PYTHON=...` names another than `.venv`'s, or `python3` where there is no
  `.venv`.
- Flash attention is the `flash-attn` package where it is installed, else the flash backend of PyTorch's
  attention, which takes no padded rows; each record says which.
- `DIR/STEP.json` is written when a step ends, `DIR/STEP.log` has what it printed. No step begins after
  eight minutes (`--minutes`) or runs beyond them; the same command goes on where the last one ended, and
  runs failed steps again.
- It exits with 0 when every step has a good record, 1 when one failed, 2 on bad input or without a GPU, and
  3 when time was up before the last step.
- `--micro` is the same on the CPU with tiny models, to try the program; `make test` does.
"""

OTHERS = (
    (
        "ZOO-Prune",
        "prefill 2.59 times, end to end 2.30 times faster at 160 of 2880 tokens, LLaVA-NeXT-7B",
        "GPU",
        "its paper",
    ),
    (
        "ZOO-Prune",
        "18.45 ms of choosing, 3564 ms against 3543 ms unpruned: no gain, Qwen3-VL-2B",
        "RTX 4090",
        "CIVIC's table",
    ),
    (
        "CDPruner",
        "prefill 250 to 38 ms, decoding 21 to 16 ms a token, memory 18.2 to 15.1 GB at 320 of 2880, "
        "LLaVA-NeXT-7B",
        "GPU",
        "its paper",
    ),
    ("VisionZip", "prefill 8 times faster", "GPU", "its abstract"),
    ("VScan", "prefill 2.91 times faster, LLaVA-NeXT-7B", "GPU", "its abstract"),
    ("PruneSID", "prefill 7.8 times faster", "GPU", "its abstract"),
    ("VisPruner", "2.26 s at 128 tokens against 2.05 s at 576", "a user's GPU", "its issue 6"),
)


def record_part(name: str, record: Mapping[str, Any] | None) -> str:
    """Say what one preset's record holds."""
    about = PRESETS[name].about
    if record is None:
        return f"## {name}\n\n{about[:1].upper()}{about[1:]}. Not measured yet.\n"
    machine, versions, model = record["machine"], record["versions"], record["model"]
    place = (
        machine["gpu"] or f"{machine['threads']} threads of {machine['processor'] or 'an unnamed processor'}"
    )
    lines = [
        f"## {name}",
        "",
        f"{about[:1].upper()}{about[1:]}. {model['parameters'] / 1e6:.0f} M parameters, {model['dtype']}, "
        f"{model['visual_tokens']} visual and {model['text_tokens']} text tokens a row. Measured on {place} "
        f"({machine['architecture']}, {machine['system']}), Python {versions['python']}, PyTorch "
        f"{versions['torch']}, transformers {versions['transformers']}, tokenprune-vlm "
        f"{versions['tokenprune-vlm']}, {record['amount']['repeats']} repeats, with `{record['command']}`. "
        f"Diverse tokens were picked by {record['picking']['path']} ({record['picking']['why']}).",
        "",
        markdown_table(record),
        "",
        EXPLANATION,
        "",
        *(["", "What was aimed at, and what this run shows:", ""] if goals(record) else []),
        *(f"- {'reached' if goal.reached else '**not reached**'}: {goal.sentence}" for goal in goals(record)),
    ]
    return "\n".join(lines) + "\n"


def official_part(record: Mapping[str, Any]) -> str:
    """Say how the official algorithms compare."""
    machine, versions = record["machine"], record["versions"]
    lines = [
        "## Beside the official algorithms",
        "",
        f"`{record['command']}`, in a checkout: {machine['threads']} threads of {machine['processor']}, "
        f"PyTorch {versions['torch']}.",
        "",
        *(f"- {line}" for line in official_lines(record)),
        "",
        "What was aimed at, and what this run shows:",
        "",
        *(f"- {'reached' if g.reached else '**not reached**'}: {g.sentence}" for g in official_goals(record)),
    ]
    return "\n".join(lines) + "\n"


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the page from records by preset's name, and `official`."""
    parts = [record_part(name, records.get(name)) for name in PRESETS if name != "micro"]
    parts += [official_part(records["official"])] if "official" in records else []
    return "\n".join([HEAD, *parts, READING, ON_A_GPU, others_part()])


def others_part() -> str:
    """List what papers and users report."""
    lines = [("method", "claim", "where", "source"), ("---",) * 4, *OTHERS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "## What others report\n\nNot comparable with each other nor with ours: other machines, models, "
        f"budgets and programs.\n\n{table}\n"
    )


def read_records(folder: Path) -> dict[str, Any]:
    """Read the records there are, by preset's name."""
    files = {name: folder / f"{name}.json" for name in (*PRESETS, "official")}
    return {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()
    }


def main() -> None:
    """Rewrite docs/speed.md in the current directory."""
    if not PAGE.parent.is_dir():
        sys.exit(f"run this in the checkout: there is no {PAGE.parent} here")
    PAGE.write_text(page(read_records(RECORDS)), encoding="utf-8")


if __name__ == "__main__":
    main()
