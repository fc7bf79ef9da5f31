# SPDX-License-Identifier: Apache-2.0
"""Tiny models and processors of the families beyond the first three, in sizes that vLLM runs on a CPU."""

import tiny_families
import tiny_processors as tp
import torch
import transformers

SECTIONS = {  # of positions with three axes; Qwen3.5 rotates a quarter of each head
    "qwen3_vl": [8, 4, 4],
    "qwen3_vl_moe": [8, 4, 4],
    "qwen3_5": [2, 1, 1],
    "qwen3_5_moe": [2, 1, 1],
}
WIDE = {"hidden_size": 128, "head_dim": 32}  # heads of 32, the smallest vLLM's CPU kernels know


def model(name):
    """A tiny model of a family, with heads and widths that vLLM knows."""
    class_name, config = tiny_families.CLASSES[name]
    config = config()
    for key, value in WIDE.items():
        setattr(config.text_config, key, value)
    if name in SECTIONS:
        config.vision_config.out_hidden_size = WIDE["hidden_size"]
        config.text_config.rope_parameters |= {"mrope_section": SECTIONS[name], "mrope_interleaved": True}
    if name == "qwen3_vl_moe":
        config.text_config.norm_topk_prob = True  # as in checkpoints on the hub; vLLM asks, transformers does
    if name.startswith("qwen3_5"):
        config.text_config.linear_key_head_dim = config.text_config.linear_value_head_dim = 128
    torch.manual_seed(0)
    return getattr(transformers, class_name)(config).eval()


def as_on_the_hub(name, weights):
    """The weights under the names, and in the layouts, that vLLM reads; transformers reads both."""
    if name == "qwen3_vl_moe":
        return {key: w.mT.contiguous() if ".experts." in key else w for key, w in weights.items()}
    return weights


def qwen3_processor(most):
    """Qwen3-VL's processor, which Qwen3.5 uses too: pictures of 64 to `most` pixels."""
    older = tp.qwen(most)
    settings = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    settings["size"] = {"shortest_edge": 64, "longest_edge": most}
    return transformers.Qwen3VLProcessor(
        older.image_processor,
        older.tokenizer,
        transformers.Qwen3VLVideoProcessor(**settings),
        chat_template=older.chat_template,
    )
