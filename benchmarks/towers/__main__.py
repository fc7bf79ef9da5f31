# SPDX-License-Identifier: Apache-2.0
"""Measure pruned vision towers, in a checkout: `python -m benchmarks.towers accuracy`, or `speed`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenprune_cli.records import Provenance, dumps, to_dict

from benchmarks.towers import accuracy, probe, speed
from benchmarks.towers.embedded import embedded_tower
from benchmarks.towers.subjects import SUBJECTS

PROGRAM = "python -m benchmarks.towers"
RECORDS = {name: Path(f"docs/benchmarks/towers-{name}.json") for name in ("accuracy", "speed")}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    one = tasks.add_parser("accuracy", help=f"the embedded tower with a probe, into {RECORDS['accuracy']}")
    one.add_argument(
        "--scenes", type=_count, default=accuracy.N_HELD_OUT, help="held-out scenes (%(default)s)"
    )
    one.add_argument(
        "--probe-scenes",
        type=_count,
        default=probe.N_SCENES,
        help="scenes the probe is fitted on (%(default)s)",
    )
    two = tasks.add_parser("speed", help=f"large towers with random weights, into {RECORDS['speed']}")
    two.add_argument("models", nargs="*", metavar="MODEL", help=f"some of: {', '.join(SUBJECTS)} (all)")
    for measured in (one, two):
        measured.add_argument("--threads", type=_count, default=None, help="CPU threads (PyTorch's choice)")
    return parser


def _count(word: str) -> int:
    """A number from 1 on."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word} is below 1")
    return number


def main(argv: Sequence[str] | None = None) -> None:
    """Run one task in the checkout's root."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else list(argv)
    given = parser.parse_args(words)
    if not RECORDS[given.task].parent.is_dir():
        parser.error(f"run this in the checkout: there is no {RECORDS[given.task].parent} here")
    if not all(importlib.util.find_spec(name) for name in ("timm", "open_clip")):
        parser.error("measuring needs timm and open_clip: pip install -e '.[timm,open_clip]'")
    if given.threads:
        torch.set_num_threads(given.threads)
    command = " ".join([PROGRAM, *(f'"{word}"' if " " in word else word for word in words)])
    about = to_dict(Provenance.here(None, "timm", "open_clip_torch", command=command))
    if given.task == "accuracy":
        record = about | measured_accuracy(given.scenes, given.probe_scenes)
    else:
        unknown = set(given.models) - set(SUBJECTS)
        if unknown:
            parser.error(f"unknown model {sorted(unknown)[0]!r}; there are: {', '.join(SUBJECTS)}")
        file = RECORDS["speed"]
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        for name in given.models or SUBJECTS:
            record[name] = about | measured_speed(name)
    RECORDS[given.task].write_text(dumps(record) + "\n", encoding="utf-8")


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
