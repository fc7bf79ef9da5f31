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
MODELS = {  # the six most used first
    "Qwen3.5, Qwen3.6": "qwen3_5",
    "Qwen3-VL": "qwen3_vl",
    "Qwen2.5-VL": "qwen",
    "Gemma 4": "gemma4",
    "InternVL": "internvl",
    "LLaVA-1.5": "llava",
    "Qwen3.5 MoE": "qwen3_5_moe",
    "Qwen3-VL MoE": "qwen3_vl_moe",
    "Qwen2-VL": "qwen2_vl",
    "LLaVA-NeXT": "llava_next",
    "Gemma 4 E": "gemma4_e",
    "Gemma 3": "gemma3",
    "GLM-4V, GLM-4.1V": "glm4v",
    "GLM-4.5V": "glm4v_moe",
    "GLM-4.6V": "glm46v",
    "Qwen2.5-Omni thinker": "qwen2_5_omni",
    "Qwen3-Omni thinker": "qwen3_omni",
    "LLaVA-OneVision": "llava_onevision",
    "SmolVLM": "smolvlm",
    "Idefics3": "idefics3",
    "Mistral 3": "mistral3",
    "PaliGemma": "paligemma",
    "Aya Vision": "aya_vision",
}
GROUPS = (  # columns of the table, by what the methods read
    ("divprune", "random", "stride", "pool"),
    ("zoo-exact", "zoo-prune"),
    ("visionzip", "vispruner"),
    ("visionzip-received", "vispruner-received"),
    ("cdpruner",),
    ("dart", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm-plus"),
)


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
    reasons = {
        "attend to each other": "masks",
        "sliding windows": "masks",
        "carry a state": "states",
        "makes new rows": "new rows",
    }
    return next(f"no: {reason}" for words, reason in reasons.items() if words in refusal)


def methods():
    """Methods of this package."""
    registry = tokenprune.default_registry()
    return {
        n for n in registry.names("method") if registry.origin("method", n).distribution == "tokenprune-vlm"
    }


def group_cell(model, inputs, group):
    """What most methods of a group have in common, and the methods that differ."""
    cells = {method: cell(model, inputs, method) for method in group}
    common = max(cells.values(), key=list(cells.values()).count)
    others = [f"`{method}` {text}" for method, text in cells.items() if text != common]
    return "; ".join([common, *others])


def tables():
    """Both tables, in Markdown."""
    assert methods() == {method for group in GROUPS for method in group}, "a method is in no group"
    pairs = {name: model_and_inputs(name) for name in MODELS.values()}
    heads = [", ".join(f"`{method}`" for method in group) for group in GROUPS]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(GROUPS) + 1) + "|"]
    for title, name in MODELS.items():
        lines.append(f"| {title} | {' | '.join(group_cell(*pairs[name], group) for group in GROUPS)} |")
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
