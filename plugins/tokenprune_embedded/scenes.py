# SPDX-License-Identifier: Apache-2.0
"""Held-out scenes: drawn pictures that no training saw, and questions about them with their answers.

They are files: a picture each, and `questions.jsonl`, which `tokenprune compare --questions` reads too. In a
checkout `python -m benchmarks.scenes FOLDER` draws them again, or more of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

FAMILIES = ("attribute", "existence", "counting", "spatial", "reading")
N_SCENES = 100
QUESTION_FILE, CHECKSUM_FILE = "questions.jsonl", "SHA256"
_FOLDER = Path(__file__).parent / "scenes"


@dataclass(frozen=True)
class Question:
    """A question of one family; the answer is compared as decoded text."""

    family: str
    text: str
    answer: str


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 (H, W, 3)."""

    image: np.ndarray


def held_out_scenes(n: int, start: int = 0) -> Iterator[tuple[Scene, list[Question]]]:
    """Return scenes `start` to `start + n` with their questions; always the same ones.

    Raises
    ------
    ValueError
        When fewer come with the package (`N_SCENES`).
    RuntimeError
        When the files are not those that were published.
    """
    if n < 0 or start < 0 or start + n > N_SCENES:
        raise ValueError(
            f"scenes {start} to {start + n} were asked for; {N_SCENES} come with the package. In a checkout, "
            f"`python -m benchmarks.scenes FOLDER --scenes {max(n, 1)}` draws more, as a question file"
        )
    return iter(_read()[start : start + n])


def digest(folder: Path) -> str:
    """Return the SHA-256 of the question file and of all pictures, in the order of their names."""
    state = hashlib.sha256((folder / QUESTION_FILE).read_bytes())
    for path in sorted(folder.glob("*.png")):
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


@lru_cache(maxsize=1)
def _read() -> tuple[tuple[Scene, list[Question]], ...]:
    from PIL import Image

    if digest(_FOLDER) != (_FOLDER / CHECKSUM_FILE).read_text().strip():
        raise RuntimeError(
            "the embedded scenes differ from those that were published (their checksum is another one); "
            "install tokenprune-vlm again"
        )
    entries = [json.loads(line) for line in (_FOLDER / QUESTION_FILE).read_bytes().splitlines()]
    scenes = []
    for name, asked in groupby(entries, key=lambda entry: str(entry["image"])):
        with Image.open(_FOLDER / name) as picture:
            image = np.array(picture.convert("RGB"))
        questions = [Question(entry["family"], entry["question"], entry["answer"]) for entry in asked]
        scenes.append((Scene(image), questions))
    return tuple(scenes)
