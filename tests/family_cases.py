# SPDX-License-Identifier: Apache-2.0
"""What the tests of the families beyond the main three have in common."""

import torch
from packaging.version import Version
from tiny_families import IMAGE, PAD, VIDEO
from transformers import __version__ as transformers_version

TOLERANCE = {"atol": 5e-4, "rtol": 1e-3}
KEEP = 3
WHOLE = ("qwen3_vl", "internvl", "gemma3")
REPEATS_WRONGLY = Version(transformers_version) < Version("5.20")  # see test_generate_unchanged
OPTIONS = {
    "max_new_tokens": 5,
    "do_sample": False,
    "suppress_tokens": [IMAGE, VIDEO, 92, 93, PAD],
    "output_logits": True,
    "return_dict_in_generate": True,
}


def generated(model, inputs, **options):
    out = model.generate(**inputs, **{**OPTIONS, **options})
    return out, torch.stack(out.logits, 1)
