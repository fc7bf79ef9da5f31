# SPDX-License-Identifier: Apache-2.0
"""Measure every method anew and pin what came out: `python tests/baselines/pin.py` in the checkout.

Run it when the embedded model's weights or a method's choices have changed on purpose, and read what differs.
"""

import argparse
import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from baselines import measure

NOISE = 1e-6  # relative; what another processor's order of additions makes of float32 features


def changed_by_rounding(model, processor, answers, scenes):
    """Scenes whose kept slots change when every weight is off by a relative 1e-6, by contender."""
    generator = torch.Generator().manual_seed(0)
    before = [weight.clone() for weight in model.parameters()]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + NOISE * torch.randn(weight.shape, generator=generator))
    moved, _ = measure.measure(model, processor, scenes, per_scene=1)
    with torch.no_grad():
        for weight, old in zip(model.parameters(), before, strict=True):
            weight.copy_(old)
    return {
        name: sum(
            a != b
            for a, b in zip(
                measure.kept_by_scene(answers[name]), measure.kept_by_scene(moved[name]), strict=True
            )
        )
        for name in answers
    }


def main():
    """Write pinned.json."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=measure.embedded_model_path(), help="folder of a model")
    parser.add_argument("--scenes", type=int, default=measure.SCENES, help="fewer only to try it")
    parser.add_argument("--output", type=Path, default=measure.PINNED)
    given = parser.parse_args()
    torch.set_num_threads(1)  # as the tests
    model = LlavaForConditionalGeneration.from_pretrained(given.model).eval()
    processor = AutoProcessor.from_pretrained(given.model)
    answers, skipped = measure.measure(model, processor, given.scenes)
    rounding = changed_by_rounding(model, processor, answers, given.scenes)
    config = model.config.text_config
    pinned = {
        "made_by": "tests/baselines/pin.py",
        "date": datetime.date.today().isoformat(),
        "weights_sha256": measure.weights_sha256(given.model),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tokenprune-vlm", "torch", "transformers")},
        },
        "architecture": platform.machine(),
        "keep": measure.KEEP,
        "held_out_scenes": {"first": measure.FIRST, "count": given.scenes},
        "questions": len(answers["unpruned"]),
        "skipped": skipped,
        "methods": {
            name: {**measure.summary(name, answers, config), "scenes_changed_by_rounding": rounding[name]}
            for name in answers
        },
    }
    text = json.dumps(pinned, indent=1)
    for contender in pinned["methods"].values():  # one line for each list of slots
        for kept in contender["kept"]:
            if kept is not None:
                spread = json.dumps(kept, indent=1).replace("\n", "\n    ")
                text = text.replace(spread, json.dumps(kept))
    given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
