# SPDX-License-Identifier: Apache-2.0
"""Held-out scenes: drawn pictures that are not in the training data, with questions and answers.

The files are one picture per scene and `questions.jsonl`, which `tokenprune compare --questions` also reads.
In a checkout, `python -m benchmarks.scenes FOLDER` draws the same scenes, or more of them.
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
    """A question of a family, and the answer that decoded text is compared with."""

    family: str
    text: str
    answer: str


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, uint8 (H, W, 3)."""

    image: np.ndarray


def held_out_scenes(n: int, start: int = 0) -> Iterator[tuple[Scene, list[Question]]]:
    """Iterate over the scenes from `start` to `start + n - 1` with their questions. They never change.

    Raises
    ------
    ValueError
        When the package does not have as many (`N_SCENES`).
    RuntimeError
        When the files differ from the published ones.
    """
    if n < 0 or start < 0 or start + n > N_SCENES:
        raise ValueError(
            f"scenes {start} to {start + n} are out of range; the package has {N_SCENES}. In a checkout, "
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
            "the embedded scenes differ from the published ones (their checksum does not match); reinstall "
            "tokenprune-vlm"
        )
    entries = [json.loads(line) for line in (_FOLDER / QUESTION_FILE).read_bytes().splitlines()]
    scenes = []
    for name, group in groupby(entries, key=lambda entry: str(entry["image"])):
        with Image.open(_FOLDER / name) as picture:
            image = np.array(picture.convert("RGB"))
        questions = [Question(entry["family"], entry["question"], entry["answer"]) for entry in group]
        scenes.append((Scene(image), questions))
    return tuple(scenes)
