# SPDX-License-Identifier: Apache-2.0
"""Held-out scenes as files: pictures, and a question file for programs that read questions from disk."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tokenprune_bench.scenes.splits import held_out_scenes

QUESTIONS = "scenes.jsonl"


def write_scenes(folder: Path, n: int) -> Path:
    """Write the first `n` held-out scenes as PNG files and their questions beside them.

    The questions are one JSON object a line (image, question, answer), as `tokenprune_bench.evaluation`'s
    question files are, in the order `held_out_scenes` has them.

    Returns
    -------
    Path
        The question file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (scene, questions) in enumerate(held_out_scenes(n)):
        name = f"scene-{number:04d}.png"
        Image.fromarray(scene.image).save(folder / name)
        for one in questions:
            lines.append(json.dumps({"image": name, "question": one.text, "answer": one.answer}) + "\n")
    path = folder / QUESTIONS
    path.write_text("".join(lines), encoding="utf-8")
    return path
