# SPDX-License-Identifier: Apache-2.0
"""Generate questions about a scene, in five families, and their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from tokenprune_embedded import Question

from benchmarks.scenes.palette import COLOR_NAMES, PLURALS, SHAPE_NAMES
from benchmarks.scenes.scene import IMAGE_SIDE, MAX_COUNT, PATCH_SIDE, Scene

ROW_WORDS = ("top", "middle", "bottom")
COLUMN_WORDS = ("left", "center", "right")
QUESTIONS_PER_SCENE = {"attribute": 3, "existence": 3, "counting": 5, "spatial": 3, "reading": 2}
# Large counts are rarer in scenes than small ones; these weights make answers 0 to 4 about equally frequent.
_COUNT_WEIGHT = (1.0, 1.1, 3.0, 8.0, 8.0)


def _attribute(rng: np.random.Generator, scene: Scene, n: int) -> list[Question]:
    colors, shapes = Counter(o.color for o in scene.objects), Counter(o.shape for o in scene.objects)
    found = [
        Question("attribute", f"what color is the {o.shape} ?", o.color)
        for o in scene.objects
        if shapes[o.shape] == 1
    ]
    found += [
        Question("attribute", f"what shape is the {o.color} object ?", o.shape)
        for o in scene.objects
        if colors[o.color] == 1
    ]
    return _sample(rng, found, n)


def _existence(rng: np.random.Generator, scene: Scene, n: int) -> list[Question]:
    """Half of the answers are no, most of them hard: colour and shape both occur, but not together."""
    present = sorted({(o.color, o.shape) for o in scene.objects})
    colors, shapes = sorted({p[0] for p in present}), sorted({p[1] for p in present})
    absent = [(c, s) for c in COLOR_NAMES for s in SHAPE_NAMES if (c, s) not in present]
    hard = [(c, s) for c, s in absent if c in colors and s in shapes]
    asked: dict[tuple[str, str], str] = {}
    for _ in range(n):
        if rng.random() < 0.5:
            pool, answer = present, "yes"
        else:
            pool, answer = hard if hard and rng.random() < 0.7 else absent, "no"
        asked[pool[rng.integers(len(pool))]] = answer
    return [Question("existence", f"is there a {c} {s} ?", answer) for (c, s), answer in asked.items()]


def _counting(rng: np.random.Generator, scene: Scene, n: int) -> list[Question]:
    """Choose the answer first, then a question with it: otherwise almost all answers would be 0 or 1."""
    colors, shapes = Counter(o.color for o in scene.objects), Counter(o.shape for o in scene.objects)
    by_answer: list[list[str]] = [[] for _ in range(MAX_COUNT + 1)]
    for color in COLOR_NAMES:
        by_answer[colors[color]].append(f"how many {color} objects ?")
    for shape in SHAPE_NAMES:
        by_answer[shapes[shape]].append(f"how many {PLURALS[shape]} ?")
    questions = []
    for _ in range(n):
        weight = np.array([w if texts else 0.0 for w, texts in zip(_COUNT_WEIGHT, by_answer, strict=True)])
        answer = int(rng.choice(MAX_COUNT + 1, p=weight / weight.sum()))
        text = by_answer[answer].pop(rng.integers(len(by_answer[answer])))
        questions.append(Question("counting", text, str(answer)))
    return questions


def _third(center: float) -> int | None:
    """Return which third of the image a centre is in, or None within half a patch of a border."""
    width = IMAGE_SIDE / 3
    third = int(center // width)
    nearest = min(abs(center - width), abs(center - 2 * width))
    return third if nearest >= PATCH_SIDE / 2 else None


def _spatial(rng: np.random.Generator, scene: Scene, n: int) -> list[Question]:
    pairs = Counter((o.color, o.shape) for o in scene.objects)
    found = []
    for o in scene.objects:
        row, column = (_third(v) for v in o.center)
        if pairs[o.color, o.shape] == 1 and row is not None and column is not None:
            answer = f"{ROW_WORDS[row]} {COLUMN_WORDS[column]}"
            found.append(Question("spatial", f"where is the {o.color} {o.shape} ?", answer))
    return _sample(rng, found, n)


def _reading(rng: np.random.Generator, scene: Scene, n: int) -> list[Question]:
    """With two signs, the question names the tone, so that it is not ambiguous."""
    found = []
    for sign in scene.signs:
        found.append(Question("reading", f"what number is on the {sign.tone} sign ?", str(sign.number)))
        if len(scene.signs) == 1:
            found.append(Question("reading", "what number is written ?", str(sign.number)))
            found.append(Question("reading", "what is the first digit ?", str(sign.number // 10)))
            found.append(Question("reading", "what is the last digit ?", str(sign.number % 10)))
    return _sample(rng, found, n)


def _sample(rng: np.random.Generator, found: list[Question], n: int) -> list[Question]:
    return [found[i] for i in rng.permutation(len(found))[:n]]


_ASKERS: dict[str, Callable[[np.random.Generator, Scene, int], list[Question]]] = {
    "attribute": _attribute,
    "existence": _existence,
    "counting": _counting,
    "spatial": _spatial,
    "reading": _reading,
}


def ask(
    rng: np.random.Generator, scene: Scene, per_family: Mapping[str, int] = QUESTIONS_PER_SCENE
) -> list[Question]:
    """Generate about 14 distinct questions about a scene, each with exactly one correct answer.

    `per_family` is the maximum number for each family: a scene without a sign has no reading questions.
    """
    return [
        question for family, asker in _ASKERS.items() for question in asker(rng, scene, per_family[family])
    ]
