# SPDX-License-Identifier: Apache-2.0
"""What the project aims at, held against a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

OVERHEAD = {"zoo-exact": 1.05, "divprune": 1.05, "visionzip": 1.10, "fastv": 1.10}
REFERENCE = "zoo-prune"  # may be slower than the unpruned model
APPLY_SECONDS, APPLY_ON = 0.2, "cpu-small"  # the preset
FASTER, LOOP_FASTER, EXACT_FASTER, OVER_PRODUCTS = 4, 30, 50, 1.3


@dataclass(frozen=True)
class Goal:
    """One aim with the figure found, and whether it is reached."""

    sentence: str
    reached: bool


def goals(record: Mapping[str, Any]) -> list[Goal]:
    """All aims this record can speak about."""
    return [*_overheads(record), *_no_slower(record), *_apply(record)]


def _apply(record: Mapping[str, Any]) -> Iterator[Goal]:
    """The time of `apply`, on the model whose size the aim is meant for."""
    if APPLY_ON not in record["command"]:
        return
    medians = {
        (run["name"], run["batch"]): run["seconds"]["apply"]["median"]
        for run in record["runs"]
        if "apply" in run["seconds"]
    }
    if medians:
        (name, batch), slowest = max(medians.items(), key=lambda item: item[1])
        yield Goal(
            f"apply() with its rehearsal takes {slowest:.2f} s at most ({name}, batch size {batch}; aim: "
            f"{APPLY_SECONDS:.1f} s)",
            slowest <= APPLY_SECONDS,
        )


def _overheads(record: Mapping[str, Any]) -> Iterator[Goal]:
    for run in record["runs"]:
        limit = OVERHEAD.get(run["name"])
        if limit is not None and "oracle" in run["ratios"]:
            found = run["ratios"]["oracle"]
            yield Goal(
                f"{run['name']} at batch size {run['batch']}, {run['keep']} tokens: prefill "
                f"{found['prefill']:.3f} of its oracle's (aim: {limit:.2f}), {found['language']:.3f} without "
                "the tower",
                found["prefill"] <= limit,
            )


def _no_slower(record: Mapping[str, Any]) -> Iterator[Goal]:
    for batch in sorted({run["batch"] for run in record["runs"]}):
        found = {
            run["name"]: run["ratios"]["unpruned"]["prefill"]
            for run in record["runs"]
            if run["batch"] == batch and run["name"] in OVERHEAD and "unpruned" in run["ratios"]
        }
        if found:
            worst = max(found, key=lambda name: found[name])
            yield Goal(
                f"no method but {REFERENCE} slower than the unpruned model at batch size {batch}: the "
                f"slowest prefill is {worst}'s, {found[worst]:.2f} of the unpruned one",
                found[worst] <= 1,
            )


def official_goals(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Return the aims that a comparison with the official algorithms can speak about."""
    for one in record["official"]:
        if "same_picks" in one:
            yield Goal(
                f"{one['what']}: {one['times_faster']:.1f} times faster than the official algorithm (aim: "
                f"{FASTER}), the loop {one['loop_times_faster']:.0f} times (aim: {LOOP_FASTER}), same picks",
                one["times_faster"] >= FASTER
                and one["loop_times_faster"] >= LOOP_FASTER
                and one["same_picks"],
            )
        else:
            yield Goal(
                f"zoo-exact {one['zoo_exact_times_faster']:.0f} times faster than the official algebra "
                f"(aim: {EXACT_FASTER})",
                one["zoo_exact_times_faster"] >= EXACT_FASTER,
            )
            yield Goal(
                f"zoo within {one['zoo_over_its_products']:.2f} of its own matrix products (aim: "
                f"{OVER_PRODUCTS})",
                one["zoo_over_its_products"] <= OVER_PRODUCTS,
            )
