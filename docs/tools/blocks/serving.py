# SPDX-License-Identifier: Apache-2.0
"""Blocks of docs/serving.md: what `tokenprune bench --engine vllm` measured."""

from __future__ import annotations

from tokenprune_evaluation.records import from_dict
from tokenprune_serving.record import Run, ServingRecord
from tokenprune_serving.table import ends, table, tower_sentences

from .sources import Blocks, measured, read_record

ENDS = " ({} to {})"


def serving(name: str) -> str:
    """Return the table of a record, what cuts inside the tower gain, and how it was made."""
    stored = read_record(name)
    record = from_dict(ServingRecord, stored)
    gains = "\n".join(f"- {sentence}" for sentence in tower_sentences(record))
    return "\n\n".join(filter(None, [table(record).markdown(), gains, measured(stored)]))


def speedup(name: str, contender: str, clients: str) -> str:
    """Return how many times faster a contender is than no plugin, with its interval."""
    run = _run(name, contender, clients)
    return f"{run.throughput_ratio:.2f}{ends(run.throughput_interval, ENDS)}"


def tower_gain(name: str, contender: str, clients: str) -> str:
    """Return how many times faster a cut inside the tower is than the method after it, with its interval."""
    run = _run(name, contender, clients)
    if run.tower_ratio is None:
        raise ValueError(f"{contender!r} does not cut inside the tower")
    return f"{run.tower_ratio:.2f}{ends(run.tower_interval, ENDS)}"


def _run(name: str, contender: str, clients: str) -> Run:
    for run in from_dict(ServingRecord, read_record(name)).runs:
        if (run.name, run.concurrency) == (contender, int(clients)):
            return run
    raise ValueError(f"the record {name!r} has no {contender!r} with {clients} clients")


BLOCKS: Blocks = {"serving": serving, "serving-speedup": speedup, "serving-tower-gain": tower_gain}
