# SPDX-License-Identifier: Apache-2.0
"""What the tests of the families beyond the main three have in common."""

import torch
from packaging.version import Version
from tiny_families import IMAGE, PAD, VIDEO
from transformers import __version__ as transformers_version

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 3
WHOLE = ("qwen3_vl", "qwen3_5", "internvl", "gemma3")
DEEPSTACK = (
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_omni",
)  # rows of the tower are added after the first two layers
STATES = ("qwen3_5", "qwen3_5_moe")  # layers of linear attention
ONE_ROW = ("fuyu",)  # its pixels do not tell where one picture ends; see test_fuyu
VERSION = Version(transformers_version)
# stock merges SmolVLM's rows in pieces of the patch size (seen in 5.20, not in 5.17 and 5.23); see
# test_stock_smolvlm_takes_only_multiples_of_its_patch_size
SMOLVLM_FAILS = Version("5.18") <= VERSION < Version("5.23")
REPEATS_WRONGLY = VERSION < Version("5.20")  # see test_generate_unchanged
# stock code sizes masks of some models by the wrong layer of a static cache (seen in 5.17 and 5.20); see
# test_stock_gemma_4_with_a_static_cache
STATIC_FAILS = ("gemma4", "gemma4_unified", "molmo2") if VERSION < Version("5.23") else ()
STATIC_FAILS += ("llama4", "llama4_plain") if VERSION < Version("5.20") else ()  # stock code raises an error
COUNTS_PADDING = ("llama4",)  # stock code numbers the rows of a layer with padding; see test_llama4
BEAMS_FAIL = ("llama4", "llama4_plain")  # stock code raises an error for beams with images
# patches of all pictures of a call attend to each other in MiniMax M3's stock tower before 5.23
BATCH_FAILS = ("minimax_m3_full",) if VERSION < Version("5.23") else ()
# the reference cannot call these before 5.23: positions of four axes, inputs of single layers
WITHOUT_REFERENCE = ("cosmos3_edge", "gemma3n") if VERSION < Version("5.23") else ()
OPTIONS = {
    "max_new_tokens": 5,
    "do_sample": False,
    "suppress_tokens": [
        *range(79, 90),
        IMAGE,
        VIDEO,
        92,
        93,
        94,
        96,
        97,
        PAD,
    ],  # special tokens of some family
    "output_logits": True,
    "return_dict_in_generate": True,
}


def generated(model, inputs, **options):
    out = model.generate(**inputs, **{**OPTIONS, **options})
    return out, torch.stack(out.logits, 1)
