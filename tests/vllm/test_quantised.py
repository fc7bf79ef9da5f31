# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose projector and language model are quantised to eight bits, weights and inputs."""

import json
import shutil

import pytest
import torch
from checkpoints import picture
from engines import Reference, ask, assert_same, engine, prompt
from safetensors.torch import load_file, save_file
from tokenprune_vllm.errors import EngineRefusedError
from torch.testing import assert_close

import tokenprune

UNQUANTISED = ("lm_head", "vision_tower", "visual.blocks", "patch_embed")
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
WEIGHTS = {**INT8, "strategy": "channel"}
OF_EACH_ROW = {**INT8, "strategy": "token", "dynamic": True}
FIXED = {**INT8, "strategy": "tensor", "dynamic": False}
SCALE = 0.03  # the fixed scale of inputs
PROJECTOR = {
    "llava": ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
    "qwen": ("visual.merger.mlp.0", "visual.merger.mlp.2"),
}


def is_quantised(name, weight):
    return (
        name.endswith(".weight")
        and weight.ndim == 2
        and "embed_tokens" not in name
        and not any(part in name for part in UNQUANTISED)
    )


def quantise(folder, inputs):
    """Quantise a checkpoint in the format `compressed-tensors`. Returns the weights it then stands for."""
    weights, stored = load_file(folder / "model.safetensors"), {}
    for name, weight in weights.items():
        if not is_quantised(name, weight):
            stored[name] = weight
            continue
        scale = weight.abs().amax(1, keepdim=True) / 127
        stored[name] = (weight / scale).round().to(torch.int8)
        stored[f"{name}_scale"] = scale
        if inputs is FIXED:
            stored[name.replace("weight", "input_scale")] = torch.tensor([SCALE])
        weights[name] = stored[name].float() * scale
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    group = {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": inputs}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [f"re:.*{part}.*" for part in UNQUANTISED],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def make(name, inputs, checkpoint, folder):
    """The folder of a quantised checkpoint, its weights, and transformers with the same rounding."""
    quantised, plain = folder / f"{name}-quantised", folder / name
    for copy in (quantised, plain):
        shutil.copytree(checkpoint(name), copy)
    weights = quantise(quantised, inputs)
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    reference = Reference(plain)

    def round_inputs(module, args):
        scale = args[0].abs().amax(-1, keepdim=True) / 127 if inputs is OF_EACH_ROW else SCALE
        return ((args[0] / scale).round().clamp(-128, 127) * scale,)

    for part, layer in reference.model.named_modules():
        if isinstance(layer, torch.nn.Linear) and is_quantised(f"{part}.weight", layer.weight):
            layer.register_forward_pre_hook(round_inputs)
    return quantised, weights, reference


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_inputs_quantised_row_by_row(name, checkpoint, tmp_path):
    """Answers are those of transformers up to the rounding of inputs; weights are read as they are."""
    folder, weights, reference = make(name, OF_EACH_ROW, checkpoint, tmp_path)
    asked = prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96))
    for pruning in ({"method": "zoo-exact", "keep": 40}, {"method": "divprune", "keep": 40}):
        with engine(folder, pruning) as llm:
            assert_same(ask(llm, [asked])[0], reference.answer(asked, pruning), tolerance=0.1)
            model = llm.llm_engine.model_executor.driver_worker.worker.get_model()
            if pruning["method"] == "zoo-exact":
                form = model._projector.current().linear_form()
                for read, layer in zip((form.W1, form.W2), PROJECTOR[name], strict=True):
                    assert_close(read, weights[f"{layer}.weight"], rtol=1e-6, atol=1e-6)


def test_inputs_quantised_with_a_fixed_scale(checkpoint, tmp_path):
    """Weights cannot be read through such layers: methods that need them are refused, others work."""
    folder, _, reference = make("llava", FIXED, checkpoint, tmp_path)
    asked = prompt("llava", "w5 IMAGE w3 w14 w15", picture(1, 96, 96))
    with engine(folder, {"method": "divprune", "keep": 40}) as llm:
        expected = reference.answer(asked, {"method": "divprune", "keep": 40})
        assert_same(ask(llm, [asked])[0], expected, tolerance=0.1)
    with (
        pytest.raises(EngineRefusedError, match="inputs are quantised with a fixed scale"),
        engine(folder, {"method": "zoo-exact", "keep": 40}),
    ):
        pass


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_the_same_checkpoint_in_transformers(name, checkpoint, tmp_path):
    """It is decompressed at the first call, which is a pruned one.

    Not by `generate`, which encodes pictures before it calls the model: with a quantised projector that fails
    in transformers itself.
    """
    folder, _, rounded = make(name, OF_EACH_ROW, checkpoint, tmp_path)
    asked, pruning = (
        prompt(name, "w5 IMAGE w3 w14 w15", picture(1, 96, 96)),
        {"method": "zoo-exact", "keep": 40},
    )
    compressed = Reference(folder)
    pictures = asked["multi_modal_data"]["image"]
    inputs = compressed.processor(text=asked["prompt"], images=pictures, return_tensors="pt")
    kept = []
    for model in (compressed.model, rounded.model):
        with torch.no_grad(), tokenprune.apply(model, **pruning) as handle:
            model(**inputs)
            kept.append(handle.last.images[0].kept.tolist())
    assert kept[0] == kept[1]
    answers = [model.answer(asked, pruning) for model in (compressed, rounded)]
    assert answers[0].tokens == answers[1].tokens and answers[0].n_prompt == answers[1].n_prompt
