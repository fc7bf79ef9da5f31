# SPDX-License-Identifier: Apache-2.0
"""Which method runs on which model: every pair is tried on a tiny model of the real architecture.

`python tests/compatibility.py` writes the tables of docs/models.md; tests/meta/test_compatibility_table.py
tries every pair again and compares. `python tests/compatibility.py FILE` first renews the record that the
second table shows, from `tokenprune check --output FILE`.
"""

import json
import re
import sys
from pathlib import Path

import tiny_clip
import tiny_families as families
import torch
from model_cases import Case

import tokenprune

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
RECORD = PAGE.parent / "benchmarks" / "check.json"
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
STRUCTURAL = {  # families that need little more than their structure
    "Apertus 1.5": "apertus1p5",
    "Aria": "aria",
    "Command A Vision": "cohere2_vision",
    "Cohere Compass": "cohere_compass",
    "Cosmos 3 Edge": "cosmos3_edge",
    "Cosmos 3 Omni": "cosmos3_omni",
    "DeepSeek-OCR 2": "deepseek_ocr2",
    "DeepSeek-VL": "deepseek_vl",
    "DeepSeek-VL hybrid": "deepseek_vl_hybrid",
    "Emu3": "emu3",
    "ERNIE 4.5 VL": "ernie4_5_vl_moe",
    "EXAONE 4.5": "exaone4_5",
    "FastVLM": "fast_vlm",
    "Fuyu": "fuyu",
    "Gemma 3n": "gemma3n",
    "Gemma 4 unified": "gemma4_unified",
    "GLM-OCR": "glm_ocr",
    "GOT-OCR 2": "got_ocr2",
    "Granite Docling": "granite_docling",
    "HyperCLOVA X Vision 2": "hyperclovax_vision_v2",
    "Idefics2": "idefics2",
    "Janus": "janus",
    "Kimi K2.5": "kimi_k25",
    "LFM2-VL": "lfm2_vl",
    "LFM3-VL": "lfm3_vl",
    "LightOnOCR": "lighton_ocr",
    "LLaVA-NeXT-Video": "llava_next_video",
    "MiniCPM-OCR": "minicpm_ocr",
    "MiniCPM-V 4.6": "minicpmv4_6",
    "MiniCPM-V 4.7": "minicpmv4_7",
    "MiniMax M3": "minimax_m3_full",
    "Molmo 2": "molmo2",
    "Muse Glimmer": "muse_glimmer",
    "Muse Spark": "muse_spark",
    "Ovis2": "ovis2",
    "PaddleOCR-VL": "paddleocr_vl",
    "Perception LM": "perception_lm",
    "Qianfan-OCR": "qianfan_ocr",
    "Step 3.7": "step3p7",
    "VideoLLaMA 3": "video_llama_3",
    "Video-LLaVA": "video_llava",
    "ViP-LLaVA": "vipllava",
}
MODELS |= STRUCTURAL
GROUPS = (  # columns of the table, by what the methods read
    ("divprune", "otprune", "prunesid-merged", "random", "stride", "pool"),
    ("zoo-exact", "zoo-prune", "zoo-max"),
    ("visionzip", "vispruner", "scope", "holov", "prunesid"),
    ("visionzip-received", "vispruner-received", "scope-received", "holov-received"),
    ("hiprune", "hiprune-qwen"),
    ("cdpruner",),
    ("dart", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm-plus", "priortr", "clse"),
)
TOWER = ("tome", "tower-diverse")  # inside the vision tower, in a table of their own


def model_and_inputs(name):
    """A tiny model and a prompt with one image."""
    if name in families.CLASSES or name in families.STRUCTURAL:
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
    tower = getattr(model.config, "vision_config", None)
    if "signal clip_" in refusal and getattr(tower, "model_type", None) == "clip_vision_model":
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
        "add features to each visual token": "features",
        "was not tested with cuts inside it": "tower",
        "runs all tiles as one batch": "tiles",
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


def record(output):
    """What `tokenprune check` measured on each tiny model, without its single records."""
    models = {}
    for checked in output["models"]:
        done = [one for one in checked["records"] if one["outcome"] == "passed"]
        models[checked["name"]] = {
            "model": checked["model"],
            "passed": len(done),
            "failed": sum(one["outcome"] == "failed" for one in checked["records"]),
            "largest": max(one["difference"] or 0.0 for one in done),
        }
    return {"versions": output["versions"], "seconds": output["seconds"], "models": models}


def checked(name, model, models):
    """How many checks a tiny model of a class passed, and the largest difference; a dash without one."""
    specimens = {"gemma4": "gemma-4", "gemma4_e": "gemma-4-e"}
    of_class = [title for title, one in models.items() if one["model"] == type(model).__name__]
    title = specimens.get(name) or next(iter(of_class), None)
    if title is None:
        return "–"
    one = models[title]
    assert not one["failed"], title
    return f"{one['passed']}, {one['largest']:.0e}"


def tables():
    """The tables, in Markdown."""
    groups = (*GROUPS, TOWER)
    assert methods() == {method for group in groups for method in group}, "a method is in no group"
    pairs = {name: model_and_inputs(name) for name in MODELS.values()}
    heads = [", ".join(f"`{method}`" for method in group) for group in GROUPS]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(GROUPS) + 1) + "|"]
    for title, name in MODELS.items():
        lines.append(f"| {title} | {' | '.join(group_cell(*pairs[name], group) for group in GROUPS)} |")
    registry = tokenprune.default_registry()
    models = json.loads(RECORD.read_text())["models"]
    lines += ["", "| model | class | adapter | positions | cuts at | video | checks |", "|---" * 7 + "|"]
    for title, name in MODELS.items():
        model = pairs[name][0]
        adapter = registry.adapter_for(model)(model)
        video = "yes" if "video" in adapter.modalities else "no"
        lines.append(
            f"| {title} | `{type(model).__name__}` | `{adapter.name}` | {', '.join(adapter.positions)} | "
            f"{', '.join(adapter.provides)} | {video} | {checked(name, model, models)} |"
        )
    heads = " | ".join(f"`{method}`" for method in TOWER)
    lines += ["", f"| model | {heads} | signals inside the vision tower |", "|---" * 4 + "|"]
    for title, name in MODELS.items():
        model, inputs = pairs[name]
        signals = registry.adapter_for(model)(model).provides.get("vision")
        if signals is not None:
            cells = " | ".join(cell(model, inputs, method) for method in TOWER)
            lines.append(f"| {title} | {cells} | {', '.join(f'`{signal}`' for signal in sorted(signals))} |")
    return "\n".join(lines)


def written():
    """The page with the tables as they are now."""
    before, after = "<!-- tables: written by tests/compatibility.py -->", "<!-- end of tables -->"
    page = PAGE.read_text()
    start, stop = page.index(before) + len(before), page.index(after)
    return f"{page[:start]}\n\n{tables()}\n\n{page[stop:]}"


if __name__ == "__main__":
    for output in sys.argv[1:]:
        RECORD.write_text(json.dumps(record(json.loads(Path(output).read_text())), indent=1) + "\n")
    PAGE.write_text(written())
