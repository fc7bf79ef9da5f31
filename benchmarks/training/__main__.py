# SPDX-License-Identifier: Apache-2.0
"""Train the embedded model from scratch and export it."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.scenes.splits import held_out_scenes
from benchmarks.training.accuracy import exact_match
from benchmarks.training.alignment import align_projector
from benchmarks.training.architecture import new_model
from benchmarks.training.export import export, reload
from benchmarks.training.language import train_language
from benchmarks.training.log import TrainingLog
from benchmarks.training.tower import train_tower

IMAGES_TOWER = 16_000
IMAGES_ALIGNMENT = 2_048
IMAGES_LANGUAGE = 27_200
HELD_OUT = 1_000


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights and the training scenes (default: 0)"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder for the model and its log")
    parser.add_argument(
        "--images-tower", type=int, default=IMAGES_TOWER, help="scenes in phase 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--images-alignment",
        type=int,
        default=IMAGES_ALIGNMENT,
        help="scenes between the phases (default: %(default)s)",
    )
    parser.add_argument(
        "--images-language",
        type=int,
        default=IMAGES_LANGUAGE,
        help="scenes in phase 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--held-out", type=int, default=HELD_OUT, help="scenes of the final evaluation (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: PyTorch's)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, export, and evaluate the exported model on the held-out scenes."""
    arguments = _arguments(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = TrainingLog(arguments.out / f"training_log_seed{arguments.seed}.jsonl")
    model = new_model(arguments.seed)
    train_tower(model, arguments.seed, arguments.images_tower, log)
    align_projector(model, arguments.seed, arguments.images_alignment, log)
    train_language(model, arguments.seed, arguments.images_language, log)
    export(model, arguments.out)
    log.write({"held_out": exact_match(reload(arguments.out), held_out_scenes(arguments.held_out))})


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # before any thread starts: denormals make training four times slower
    main()
