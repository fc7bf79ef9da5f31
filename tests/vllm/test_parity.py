# SPDX-License-Identifier: Apache-2.0
"""vLLM answers as transformers does when both are pruned: same rows, same positions, same probabilities."""

import pytest
from checkpoints import SIDE, picture
from engines import Reference, ask, assert_same, engine, prompt

WITH_CLASS_TOKEN = (
    "zoo-exact",
    "zoo-prune",
    "divprune",
    "vispruner",
    "visionzip",
    "otprune",
    "scope",
    "holov",
    "prunesid",
    "random",
    "stride",
    "pool",
)
VARIANTS = {name: f"{name}-received" for name in ("vispruner", "visionzip", "scope", "holov")}
VARIANTS |= {"prunesid": "prunesid-merged"}
WITHOUT = tuple(VARIANTS.get(name, name) for name in WITH_CLASS_TOKEN)
KEEP = {"llava": 48, "llava_siglip": 48, "llava_next": 250, "qwen": 40}
KEEP |= {"qwen3_vl": 40, "qwen3_vl_moe": 40, "gemma3": 12, "internvl": 12}
MORE = {
    "qwen3_vl": ("zoo-exact", "zoo-prune", "divprune", "vispruner-received", "random", "stride"),
    "gemma3": ("zoo-exact", "zoo-prune", "divprune", "random", "pool"),
    "internvl": ("zoo-exact", "zoo-prune", "divprune", "random", "pool"),
}
OF_CLIP = ("zoo-exact", "divprune", "vispruner", "visionzip", "scope")
IN_CI = {"llava": (*OF_CLIP, "zoo-prune", "prunesid"), "llava_next": OF_CLIP, "llava_siglip": ("zoo-exact",)}
IN_CI |= {"qwen": ("zoo-exact", "vispruner-received", "visionzip-received", "prunesid-merged")}
IN_CI |= {name: methods[:1] for name, methods in MORE.items()}
ALL = {
    "llava": WITH_CLASS_TOKEN,
    "llava_siglip": ("zoo-exact",),
    "llava_next": WITH_CLASS_TOKEN,
    "qwen": WITHOUT,
}
ALL |= {**MORE, "qwen3_vl_moe": ("zoo-exact", "divprune")}
METHODS = [
    pytest.param(name, method, marks=() if method in IN_CI.get(name, ()) else pytest.mark.nightly)
    for name, methods in ALL.items()
    for method in methods
]


def prompts(name):
    """One picture; a wide one; a tall one; two in a prompt; none."""
    shapes = [(SIDE, SIDE)] * 4 if name == "llava" else [(96, 96), (160, 64), (64, 176), (120, 88)]
    pictures = [picture(seed, *shape) for seed, shape in enumerate(shapes)]
    return [
        *(prompt(name, "w5 IMAGE w3 w14 w15 w9 w2", one) for one in pictures[:3]),
        prompt(name, "w5 IMAGE w21 IMAGE w8 w8 w30", *pictures[2:]),
        prompt(name, "w5 w7 w12 w13"),
    ]


@pytest.fixture(scope="module")
def reference(checkpoint):
    """transformers with a model, loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = Reference(checkpoint(name))
        return loaded[name]

    return load


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_pruned_engine_answers_as_transformers_does(name, method, checkpoint, reference):
    pruning = {"method": method, "keep": KEEP[name]}
    with engine(checkpoint(name), pruning) as llm:
        found = ask(llm, prompts(name))
        again = ask(llm, prompts(name))
    for one, repeated, asked in zip(found, again, prompts(name), strict=True):
        assert_same(one, reference(name).answer(asked, pruning))
        assert (repeated.tokens, repeated.n_prompt) == (one.tokens, one.n_prompt)
    assert any(repeated.n_cached for repeated in again)


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen", marks=pytest.mark.nightly)])
def test_a_compiled_language_model_answers_alike(name, checkpoint, reference, monkeypatch):
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")  # compiled here and now; nothing is left behind
    pruning = {"method": "zoo-exact", "keep": KEEP[name]}
    no_warmup = {"enable_jit_warmup": False}  # Triton's interpreter cannot run all kernels
    with engine(checkpoint(name), pruning, enforce_eager=False, kernel_config=no_warmup) as llm:
        mode = llm.llm_engine.vllm_config.compilation_config.mode
        found = ask(llm, prompts(name))
    assert mode.name != "NONE"
    for one, asked in zip(found, prompts(name), strict=True):
        assert_same(one, reference(name).answer(asked, pruning))
