# SPDX-License-Identifier: Apache-2.0
"""Count the duplicate tokens of drawn pictures, from a checkout: `python -m benchmarks.duplicates`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenprune_evaluation.records import Provenance, dumps

from benchmarks.duplicates.measure import SIDES, Counted, counted
from benchmarks.duplicates.pictures import pictures
from benchmarks.duplicates.tower import TowerTime, qwen, timed

PROGRAM = "python -m benchmarks.duplicates"
RECORD = Path("docs/benchmarks/duplicates.json")


@dataclass(frozen=True)
class Record(Provenance):
    """All pictures, at all sides of a token, and the time of a tower on them."""

    pictures: tuple[Counted, ...]
    towers: tuple[TowerTime, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure on one thread and write the record, or the pictures."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--out", type=Path, default=RECORD, help="record (default: %(default)s)")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="write the pictures to this directory as PNG files, and stop"
    )
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(words)
    if arguments.draw is not None:
        arguments.draw.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures().items():
            picture.save(arguments.draw / f"{name.replace(', ', '-').replace(' ', '-')}.png")
        return
    if not arguments.out.parent.is_dir():
        parser.error(f"{arguments.out.parent} is not a directory; run this in the root of a checkout")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [counted(name, picture, side) for name, picture in pictures().items() for side in SIDES]
        model = qwen()
        towers = [timed(model, name, picture) for name, picture in pictures().items()]
        about = Provenance.here(None, "pillow", command=shlex.join([*PROGRAM.split(), *words]))
    finally:
        torch.set_num_threads(n_threads)
    arguments.out.write_text(
        dumps(Record(**vars(about), pictures=tuple(found), towers=tuple(towers))) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
