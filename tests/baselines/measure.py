# SPDX-License-Identifier: Apache-2.0
"""Runs every method on a fixed set of held-out scenes; the test and the script that pins both use it."""

import hashlib
from pathlib import Path

from scene_batches import answer_scenes, make_batches
from tokenprune_embedded import embedded_model_path
from tokenprune_evaluation.costs import prefill_flops
from tokenprune_evaluation.settings import BASELINES, UNPRUNED, Setting, refusal

import tokenprune
from baselines.standard_errors import paired_gap
from benchmarks.scenes import held_out_scenes

PINNED = Path(__file__).parent / "pinned.json"
KEEP = 18  # of 144
FIRST, SCENES = 1000, 12  # held-out scenes nobody else looks at
RANDOM = ("random", "random (seed 1)", "random (seed 2)")  # three draws: one alone may be lucky


def built_in_methods():
    """Names of the methods that come with the package."""
    registry = tokenprune.default_registry()
    names = tokenprune.list_methods()
    return [n for n in names if registry.origin("method", n).distribution == "tokenprune-vlm"]


def contenders():
    """Name -> (setting, seed), the unpruned model first."""
    named = {name: (Setting(name, KEEP), 0) for name in (*built_in_methods(), *BASELINES)}
    more = {name: (Setting("random", KEEP), seed) for seed, name in enumerate(RANDOM) if seed}
    return {"unpruned": (UNPRUNED, 0), **named, **more}


def weights_sha256(folder=None):
    """SHA-256 of the model's weights."""
    return hashlib.sha256(((folder or embedded_model_path()) / "model.safetensors").read_bytes()).hexdigest()


def measure(model, processor, scenes=SCENES, per_scene=None):
    """Answers by name of all contenders this model can run, and why it cannot run the others.

    `per_scene` is how many of each scene's questions are asked, the first ones; None: all.
    """
    drawn = [(scene, questions[:per_scene]) for scene, questions in held_out_scenes(scenes, start=FIRST)]
    batches = make_batches(processor, drawn)
    answers, skipped = {}, {}
    for name, (setting, seed) in contenders().items():
        reason = refusal(model, setting)
        if reason is not None:
            skipped[name] = reason
            continue
        answers[name] = answer_scenes(model, processor, drawn, setting, seed, batches=batches)
    return answers, skipped


def kept_by_scene(answers):
    """Kept slots of each scene's first question, (scenes, rows); None where nothing was chosen."""
    first = {}
    for answer in answers:
        first.setdefault(answer.scene, answer.answered.kept)
    return [None if kept is None else list(kept) for kept in first.values()]


def summary(name, answers, config):
    """What is pinned of one contender: right answers, its gaps to the random draws, rows, costs, slots."""
    answered = [answer.answered for answer in answers[name]]
    n = len(answered)
    gaps = [paired_gap(answers[name], answers[draw]) for draw in RANDOM]
    return {
        "right": sum(a.is_right for a in answers[name]),
        "gaps_to_random": [
            {"value": round(g.value, 4), "standard_error": round(g.standard_error, 4)} for g in gaps
        ],
        "clearly_above_random": all(g.is_clear and g.value > 0 for g in gaps),
        "visual_tokens": sum(a.n_visual for a in answered) / n,
        "kv_cache_bytes": round(sum(a.kv_bytes for a in answered) / n),
        "prefill_flops": round(sum(prefill_flops(config, a.rows) for a in answered) / n),
        "kept": kept_by_scene(answers[name]),
    }
