# SPDX-License-Identifier: Apache-2.0
"""Detect leaks after repeated pruning and generation: tensors, hooks, registered functions, memory.

    python -m benchmarks.growth --cycles 500 --out growth.json

Every method that runs on the tiny LLaVA of `tokenprune check` is applied and removed `--cycles` times, and
generates as many times. The model is the same throughout, so that leaks of single cycles accumulate.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tokenprune_adapters.llava import LlavaAdapter
from tokenprune_adapters.transformers.stock import AttentionFunctions, attribute

import tokenprune

LAYERS = {"fastv": 2, "dart": 2, "pyramiddrop": (1, 2), "sparsevlm": (1, 2, 3), "sparsevlm-plus": (1, 2, 3)}
WARM_UP = 20  # cycles before the first count, to fill caches of Python and torch


@dataclass(frozen=True)
class Held:
    """Counts of live tensors, hooks and attention functions, and resident memory in MiB."""

    tensors: int
    hooks: int
    functions: int
    mebibytes: float

    @classmethod
    def now(cls, model: torch.nn.Module) -> Held:
        """Return the current counts."""
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
        table = getattr(AttentionFunctions()._table, attribute("table of attention functions"))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(tensors, hooks, len(table), round(pages * 4096 / 2**20, 1))


def repeated(model: torch.nn.Module, cycles: int, act: Callable[[], Any]) -> dict[str, Any]:
    """Return the counts before and after `cycles` repetitions."""
    for _ in range(WARM_UP):
        act()
    before = Held.now(model)
    for _ in range(cycles):
        act()
    return {"before": asdict(before), "after": asdict(Held.now(model))}


def measured(model: Any, inputs: dict[str, Any], method: str, cycles: int) -> dict[str, Any]:
    """Measure growth while a method is applied and removed, and while it generates."""
    options: dict[str, Any] = {"method": method, "keep": 4, "layer": LAYERS.get(method)}

    def cycle() -> None:
        tokenprune.apply(model, **options).remove()

    found = {"method": method, "cycles": cycles, "apply_and_remove": repeated(model, cycles, cycle)}
    with tokenprune.apply(model, **options):
        found["generate"] = repeated(
            model, cycles, lambda: model.generate(**inputs, max_new_tokens=2, do_sample=False)
        )
    return found


def grew(run: dict[str, Any]) -> list[str]:
    """Return the names of counts that grew; memory only above 8 MiB, the granularity of allocators."""
    before, after = run["before"], run["after"]
    more = [name for name in ("tensors", "hooks", "functions") if after[name] > before[name]]
    return more + (["mebibytes"] if after["mebibytes"] > before["mebibytes"] + 8 else [])


def main() -> None:
    """Measure every method and write the record after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=500, help="repetitions (default: 500)")
    parser.add_argument("--methods", nargs="*", help="methods to test (default: all that run on this model)")
    parser.add_argument("--out", type=Path, required=True, help="output file (JSON)")
    arguments = parser.parse_args()
    if arguments.cycles < 1:
        parser.error(f"--cycles must be at least 1, got {arguments.cycles}")
    unknown = set(arguments.methods or ()) - set(tokenprune.list_methods())
    if unknown:
        parser.error(
            f"unknown method {', '.join(sorted(unknown))}; available: {', '.join(tokenprune.list_methods())}"
        )
    torch.set_num_threads(1)
    specimen = LlavaAdapter.specimens()[0]
    model = specimen.build()
    inputs = LlavaAdapter(model).example_inputs()
    names = ("tokenprune-vlm", "torch", "transformers")
    versions = {name: metadata.version(name) for name in names}
    record: dict[str, Any] = {**versions, "runs": [], "refused": {}}
    for method in arguments.methods or tokenprune.list_methods():
        try:
            run = measured(model, inputs, method, arguments.cycles)
        except tokenprune.IncompatibleError as error:
            record["refused"][method] = str(error)
        else:
            more = {name: grew(run[name]) for name in ("apply_and_remove", "generate")}
            print(f"{method:16} grew: {more if any(more.values()) else 'nothing'}", flush=True)
            record["runs"].append(run | {"grew": more})
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    raise SystemExit(any(any(run["grew"].values()) for run in record["runs"]))


if __name__ == "__main__":
    main()
