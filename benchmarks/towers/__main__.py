# SPDX-License-Identifier: Apache-2.0
"""Measure pruned vision towers, from a checkout: `python -m benchmarks.towers accuracy`, or `speed`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenprune_evaluation.records import Provenance, dumps, to_dict

from benchmarks.towers import accuracy, probe, speed
from benchmarks.towers.embedded import embedded_tower
from benchmarks.towers.subjects import SUBJECTS

PROGRAM = "python -m benchmarks.towers"
RECORDS = {name: Path(f"docs/benchmarks/towers-{name}.json") for name in ("accuracy", "speed")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    accuracy_task = tasks.add_parser(
        "accuracy", help=f"measure the embedded tower with a probe, into {RECORDS['accuracy']}"
    )
    accuracy_task.add_argument(
        "--scenes", type=_count, default=accuracy.N_HELD_OUT, help="held-out scenes (default: %(default)s)"
    )
    accuracy_task.add_argument(
        "--probe-scenes",
        type=_count,
        default=probe.N_SCENES,
        help="scenes to fit the probe on (default: %(default)s)",
    )
    speed_task = tasks.add_parser(
        "speed", help=f"time large towers with random weights, into {RECORDS['speed']}"
    )
    speed_task.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"any of: {', '.join(SUBJECTS)} (default: all)"
    )
    for task in (accuracy_task, speed_task):
        task.add_argument("--threads", type=_count, default=None, help="CPU threads (default: PyTorch's)")
    return parser


def _count(word: str) -> int:
    """Parse a positive integer."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {word}")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """Run a task in the root of a checkout."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(words)
    if not RECORDS[arguments.task].parent.is_dir():
        parser.error(
            f"run this in the root of a checkout: {RECORDS[arguments.task].parent} does not exist here"
        )
    if not all(importlib.util.find_spec(name) for name in ("timm", "open_clip")):
        parser.error("measuring needs timm and open_clip: pip install -e '.[timm,open_clip]'")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    command = " ".join([PROGRAM, *(f'"{word}"' if " " in word else word for word in words)])
    about = to_dict(Provenance.here(None, "timm", "open_clip_torch", command=command))
    if arguments.task == "accuracy":
        record = about | measured_accuracy(arguments.scenes, arguments.probe_scenes)
    else:
        unknown = set(arguments.models) - set(SUBJECTS)
        if unknown:
            parser.error(f"unknown model {sorted(unknown)[0]!r}; available: {', '.join(SUBJECTS)}")
        file = RECORDS["speed"]
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for name in arguments.models or SUBJECTS:
            record[name] = about | measured_speed(name)
    RECORDS[arguments.task].write_text(dumps(record) + "\n", encoding="utf-8")


def measured_accuracy(n_scenes: int, n_probe_scenes: int) -> dict[str, Any]:
    """Fit the probe and measure the embedded tower; see `accuracy.measure`."""
    tower: Any = embedded_tower()
    model = probe.with_probe(tower, n_probe_scenes)
    return {
        "model": "embedded",
        "probe_scenes": n_probe_scenes,
        "held_out_scenes": n_scenes,
        "patches": tower.patch_embed.num_patches,
        "blocks": len(tower.blocks),
        "layers": accuracy.LAYERS,
        "keeps": accuracy.KEEPS,
        "entries": accuracy.measure(model, accuracy.settings(), n_scenes, tick=_say),
    }


def measured_speed(name: str) -> dict[str, Any]:
    """Time one of the large towers; see `speed.measure`."""
    subject = SUBJECTS[name]()
    return {
        "layer": speed.LAYER,
        "patches": subject.n_patches,
        "keep": subject.n_patches // 2,
        "side": subject.side,
        "entries": speed.measure(subject, tick=_say),
    }


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
