# SPDX-License-Identifier: Apache-2.0
"""Which method runs on which model: every pair is tried on a tiny model of the real architecture.

`python tests/compatibility.py` writes the tables of docs/models.md; tests/meta/test_compatibility_table.py
tries every pair again and compares.
"""

import re
from pathlib import Path

import tiny_clip
import tiny_families as families
import torch
from model_cases import Case

import tokenprune

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
KEEP = 3
MODELS = {
    "LLaVA-1.5": "llava",
    "LLaVA-NeXT": "llava_next",
    "Qwen2.5-VL": "qwen",
    "Qwen2-VL": "qwen2_vl",
    "Qwen3-VL": "qwen3_vl",
    "InternVL": "internvl",
    "Gemma 3": "gemma3",
    "LLaVA-OneVision": "llava_onevision",
    "SmolVLM": "smolvlm",
    "Idefics3": "idefics3",
    "Mistral 3": "mistral3",
    "PaliGemma": "paligemma",
    "Aya Vision": "aya_vision",
}


def model_and_inputs(name):
    """A tiny model and a prompt with one image."""
    if name in families.CLASSES:
        return families.model(name), families.inputs(name, (3, "I", 5))
    case = Case(name)
    return case.model, case.single()[0]


def attempt(model, inputs, **call):
    """Whether the pruned model ran and dropped tokens; the refusal otherwise."""
    try:
        handle = tokenprune.apply(model, **call)
    except tokenprune.IncompatibleError as refusal:
        return str(refusal)
    with handle, torch.no_grad():
        logits = model(**inputs).logits
        (image,) = handle.last.images
    assert logits.isfinite().all() and 1 <= image.n_after < image.n_before
    return None


def cell(model, inputs, method):
    """Yes, `layer=` or `clip=` where it runs with that option, or what is missing."""
    refusal = attempt(model, inputs, method=method, keep=KEEP)
    if refusal is None:
        return "yes"
    if "or schedule=" in refusal and attempt(model, inputs, method=method, schedule={2: 9, 3: KEEP}) is None:
        return "`layer=`"
    tower = model.config.vision_config
    if "signal clip_" in refusal and tower.model_type == "clip_vision_model":
        brought = tokenprune.method(method, clip=tiny_clip.space(tower))
        if attempt(model, inputs, method=brought, keep=KEEP) is None:
            return "`clip=`"
    needs = re.search(r"needs the signal ([\w, ]+?), which", refusal)
    if needs:
        return f"no: {needs[1].split(', ')[0]}"
    return "no: masks" if "attend to each other" in refusal else "no: new rows"


def methods():
    """Methods of this package, by stage."""
    registry = tokenprune.default_registry()
    ours = [
        n for n in registry.names("method") if registry.origin("method", n).distribution == "tokenprune-vlm"
    ]
    return sorted(ours, key=lambda name: (tokenprune.method(name).stage != "projector", name))


def tables():
    """Both tables, in Markdown."""
    pairs = {name: model_and_inputs(name) for name in MODELS.values()}
    lines = [f"| method | stage | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 2) + "|"]
    for method in methods():
        cells = [cell(*pairs[name], method) for name in MODELS.values()]
        lines.append(f"| `{method}` | {tokenprune.method(method).stage} | {' | '.join(cells)} |")
    registry = tokenprune.default_registry()
    lines += ["", "| model | class | adapter | positions | cuts at | video | on a GPU |", "|---" * 7 + "|"]
    for title, name in MODELS.items():
        model = pairs[name][0]
        adapter = registry.adapter_for(model)(model)
        video = "yes" if "video" in adapter.modalities else "no"
        lines.append(
            f"| {title} | `{type(model).__name__}` | `{adapter.name}` | {', '.join(adapter.positions)} | "
            f"{', '.join(adapter.provides)} | {video} | unmeasured |"
        )
    return "\n".join(lines)


def written():
    """The page with the tables as they are now."""
    before, after = "<!-- tables: written by tests/compatibility.py -->", "<!-- end of tables -->"
    page = PAGE.read_text()
    start, stop = page.index(before) + len(before), page.index(after)
    return f"{page[:start]}\n\n{tables()}\n\n{page[stop:]}"


if __name__ == "__main__":
    PAGE.write_text(written())
