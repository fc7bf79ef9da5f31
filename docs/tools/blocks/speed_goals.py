# SPDX-License-Identifier: Apache-2.0
"""What the project aims at, held against a record. `goals.md.jinja` puts each kind into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenprune_cli.bench.contenders import ORACLE, TOWER_ORACLE
from tokenprune_cli.bench.record import Run
from tokenprune_cli.bench.table import label
from tokenprune_evaluation.records import from_dict

OVERHEAD = {"zoo-exact": 1.05, "divprune": 1.05, "visionzip": 1.10, "fastv": 1.10}
REFERENCE = "zoo-prune"  # may be slower than the unpruned model
APPLY_SECONDS, APPLY_ON = 0.2, "cpu-small"  # the preset
TOWER_OVERHEAD = 1.05
# by preset, and whether a second cut follows before the language model
TOWER_CUT = {("cpu-tower", False): 0.80, ("cpu-tower", True): 0.90, ("cpu-tower-qwen", True): 0.60}
FASTER, LOOP_FASTER, EXACT_FASTER, OVER_PRODUCTS = 4, 30, 50, 1.3


@dataclass(frozen=True)
class Goal:
    """A goal with the measured figures.

    `kind` names the sentence of `goals.md.jinja` that the figures go into.
    """

    kind: str
    reached: bool
    figures: Mapping[str, Any]


def goals(record: Mapping[str, Any]) -> list[Goal]:
    """All goals that a benchmark's record can speak about."""
    return [*_overheads(record), *_tower_cuts(record), *_no_slower(record), *_apply(record)]


def _overheads(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Prefill by that of the oracle, for each method at each batch size."""
    for run in record["runs"]:
        limit = OVERHEAD.get(run["name"])
        if limit is not None and "oracle" in run["ratios"]:
            ratios = run["ratios"]["oracle"]
            yield Goal("overhead", ratios["prefill"] <= limit, {**run, **ratios, "limit": limit})


def _tower_cuts(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Prefill of a cut inside the tower, by that of the oracle with a whole tower and by that of its own."""
    for run in record["runs"]:
        if TOWER_ORACLE not in run["ratios"]:
            continue
        figures = {**run, "label": label(from_dict(Run, run))}
        then = run["keep"] < run["tower_rows"][-1][1]
        limit = TOWER_CUT.get((record["model"]["name"], then))
        if limit is not None:
            (whole,) = (
                other
                for other in record["runs"]
                if (other["name"], other["batch"]) == (ORACLE, run["batch"])
                and other["visual_rows"] == run["visual_rows"]
            )
            operations = sum(run["flops"].values()) / sum(whole["flops"].values())
            ratio = run["ratios"][ORACLE]["prefill"]
            more = {"ratio": ratio, "operations": operations, "limit": limit}
            yield Goal("tower cut", ratio <= limit, {**figures, **more})
        ratio = run["ratios"][TOWER_ORACLE]["prefill"]
        more = {"ratio": ratio, "limit": TOWER_OVERHEAD}
        yield Goal("tower overhead", ratio <= TOWER_OVERHEAD, {**figures, **more})


def _no_slower(record: Mapping[str, Any]) -> Iterator[Goal]:
    """The slowest method at each batch size, by the unpruned model."""
    for batch in sorted({run["batch"] for run in record["runs"]}):
        ratios = {
            run["name"]: run["ratios"]["unpruned"]["prefill"]
            for run in record["runs"]
            if run["batch"] == batch and run["name"] in OVERHEAD and "unpruned" in run["ratios"]
        }
        if ratios:
            name = max(ratios, key=lambda name: ratios[name])
            figures = {"batch": batch, "name": name, "ratio": ratios[name], "reference": REFERENCE}
            yield Goal("no slower", ratios[name] <= 1, figures)


def _apply(record: Mapping[str, Any]) -> Iterator[Goal]:
    """The time of `apply`, on the model whose size the goal is meant for."""
    if APPLY_ON not in record["command"]:
        return
    medians = {
        (run["name"], run["batch"]): run["seconds"]["apply"]["median"]
        for run in record["runs"]
        if "apply" in run["seconds"]
    }
    if medians:
        (name, batch), seconds = max(medians.items(), key=lambda item: item[1])
        figures = {"name": name, "batch": batch, "seconds": seconds, "limit": APPLY_SECONDS}
        yield Goal("apply", seconds <= APPLY_SECONDS, figures)


def official_goals(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Return the goals that a comparison with the official algorithms can speak about."""
    for comparison in record["official"]:
        if "same_picks" in comparison:
            is_faster = comparison["times_faster"] >= FASTER
            loop_is_faster = comparison["loop_times_faster"] >= LOOP_FASTER
            limits = {"limit": FASTER, "loop_limit": LOOP_FASTER}
            reached = is_faster and loop_is_faster and comparison["same_picks"]
            yield Goal("picks", reached, {**comparison, **limits})
        else:
            times, ratio = comparison["zoo_exact_times_faster"], comparison["zoo_over_its_products"]
            yield Goal("zoo-exact", times >= EXACT_FASTER, {"times": times, "limit": EXACT_FASTER})
            yield Goal("zoo", ratio <= OVER_PRODUCTS, {"ratio": ratio, "limit": OVER_PRODUCTS})
