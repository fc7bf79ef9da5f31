# SPDX-License-Identifier: Apache-2.0
"""Coverage on the embedded model, from a checkout: `python -m benchmarks.calibration`."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tokenprune_calibrate.collecting import Traffic, collect
from tokenprune_calibrate.goal import Goal
from tokenprune_calibrate.ladders import make_ladders
from tokenprune_calibrate.sample import Sample
from tokenprune_calibrate.verdict import unit_losses
from tokenprune_cli.console.models import load_model
from tokenprune_evaluation.journal import Journal
from tokenprune_evaluation.question_set import Item, QuestionSet
from tokenprune_evaluation.records import Provenance, dumps
from tokenprune_evaluation.settings import key

from benchmarks.calibration.halves import Halves, judge
from benchmarks.scenes.splits import held_out_scenes

PROGRAM = "python -m benchmarks.calibration"
RECORD = Path("docs/benchmarks/calibration.json")
FIRST = 1000  # scenes before this one were used for other figures
METHODS = ("divprune", "zoo-exact", "fastv")
KEEPS = (126, 108, 90, 72, 54, 36, 18)
LIMITS = (0.05, 0.1, 0.15, 0.2, 0.3)
DELTA, N_HALVES = 0.05, 1000


@dataclass(frozen=True)
class Record(Provenance):
    """The risk of each setting over all questions, by method and budget, and what halves certified."""

    questions: int
    first_scene: int
    delta: float
    halves: int
    risks: dict[str, float]
    results: tuple[Halves, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Answer the questions under each setting, certify on halves, and write the record."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--questions", type=int, default=2000, help="one about each scene (default: 2000)")
    parser.add_argument("--batch", type=int, default=64, help="questions answered at once (default: 64)")
    parser.add_argument("--out", type=Path, default=RECORD, help="record (default: %(default)s)")
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(words)
    model, processor = load_model(None)
    questions = scenes(arguments.questions)
    goal = Goal("disagreement", 0.1, 1 - DELTA, unit="question")
    sample = Sample.draw(questions, goal)
    ladders = make_ladders(model, METHODS, KEEPS, 0)
    settings = [rung for ladder in ladders for rung in ladder.rungs]
    traffic = Traffic(model, processor, questions, batch=arguments.batch, redact=True)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "answers.jsonl", {})
        lines = collect(traffic, goal, sample, settings, journal, report, lambda _: False)
    losses = {setting: unit_losses(lines, setting) for setting in settings}
    results = tuple(
        judge(ladder.method, [losses[rung] for rung in ladder.rungs], limit, DELTA, N_HALVES, seed=0)
        for ladder in ladders
        for limit in LIMITS
    )
    record = Record(
        **vars(Provenance.here(command=shlex.join([*PROGRAM.split(), *words]))),
        questions=len(sample),
        first_scene=FIRST,
        delta=DELTA,
        halves=N_HALVES,
        risks={key(setting): float(values.mean()) for setting, values in losses.items()},
        results=results,
    )
    arguments.out.write_text(dumps(record) + "\n")


def scenes(n: int) -> QuestionSet:
    """Return one question, drawn at random, about each of n held-out scenes."""
    rng = np.random.default_rng(0)
    arrays, items = [], []
    for number, (scene, asked) in enumerate(held_out_scenes(n, FIRST)):
        question = asked[rng.integers(len(asked))]
        arrays.append(np.asarray(scene.image))
        items.append(Item(number, question, (question.answer,), "exact_match"))
    return QuestionSet(f"{n} scenes", tuple(items), lambda i: Image.fromarray(arrays[i]), f"scenes {FIRST}")


def report(what: str, done: int, total: int) -> None:
    """Print progress."""
    print(f"{what} {done}/{total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
