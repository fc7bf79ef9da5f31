# SPDX-License-Identifier: Apache-2.0
"""Write held-out scenes to files: images, and a question file for programs that read questions from disk."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from tokenprune_embedded.scenes import CHECKSUM_FILE, QUESTION_FILE, digest

from benchmarks.scenes.splits import held_out_scenes


def write_scenes(folder: Path, n: int, start: int = 0) -> Path:
    """Write `n` held-out scenes from number `start` on as PNG files, with a file of their questions.

    The question file has one JSON object per line (image, family, question, answer), as `tokenprune compare`
    reads it, in the order of `held_out_scenes`. A checksum of all files is written to a file too.

    Returns
    -------
    Path
        The question file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (scene, questions) in enumerate(held_out_scenes(n, start), start):
        name = f"scene-{number:04d}.png"
        Image.fromarray(scene.image).save(folder / name, optimize=True)
        for question in questions:
            entry = {
                "image": name,
                "family": question.family,
                "question": question.text,
                "answer": question.answer,
            }
            lines.append(json.dumps(entry) + "\n")
    path = folder / QUESTION_FILE
    path.write_text("".join(lines), encoding="utf-8")
    (folder / CHECKSUM_FILE).write_text(digest(folder) + "\n")
    return path
