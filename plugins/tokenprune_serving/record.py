# SPDX-License-Identifier: Apache-2.0
"""Record of the requests to servers and their timing, and the ratios that are computed from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from tokenprune_evaluation.records import Provenance

from tokenprune_serving.intervals import median_interval
from tokenprune_serving.load import NONE, Load

Ends = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """A contender at a number of clients.

    `requests_per_second` is the median of `round_rates`, the requests per second of each round.
    `throughput_ratio` is the median of these rates divided by those of the server without the plugin in the
    same rounds, and `throughput_interval` its 95 % interval; None with fewer than six rounds. `tower_ratio`
    and `tower_interval`, of a cut inside the vision tower, are relative to the same method after the tower.
    `first_token_seconds` and `answer_seconds` are those of each request, in the order of the answers.
    """

    name: str
    concurrency: int
    prompt_tokens: int
    requests_per_second: float
    first_token_p50: float
    first_token_p99: float
    first_token_seconds: tuple[float, ...]
    throughput_ratio: float = math.nan
    throughput_interval: Ends | None = None
    tower_ratio: float | None = None
    tower_interval: Ends | None = None
    round_rates: tuple[float, ...] = ()
    answer_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Served:
    """The served model."""

    about: str
    parameters: int


@dataclass(frozen=True)
class ServingRecord(Provenance):
    """Results of every contender at every number of clients."""

    engine: str
    model: Served
    load: Load
    runs: tuple[Run, ...]


def with_ratios(runs: Sequence[Run], comparisons: Mapping[str, str]) -> tuple[Run, ...]:
    """Divide each throughput by those that it is compared with at the same number of clients.

    Above 1 is faster. `comparisons` are the contenders after the tower, by the names of those inside it.
    """
    found = {(run.name, run.concurrency): run for run in runs}
    compared = []
    for run in runs:
        ratio, interval = _ratio(run, found[NONE, run.concurrency])
        run = replace(run, throughput_ratio=ratio, throughput_interval=interval)
        if run.name in comparisons:
            ratio, interval = _ratio(run, found[comparisons[run.name], run.concurrency])
            run = replace(run, tower_ratio=ratio, tower_interval=interval)
        compared.append(run)
    return tuple(compared)


def _ratio(run: Run, base: Run) -> tuple[float, Ends | None]:
    """Return the median of the rounds' ratios, and its interval."""
    ratios = [rate / other for rate, other in zip(_rates(run), _rates(base), strict=True)]
    interval = None if run is base else median_interval(ratios)
    return round(median(ratios), 3), interval and (round(interval[0], 3), round(interval[1], 3))


def _rates(run: Run) -> tuple[float, ...]:
    """Return the throughput of each round; older records have only that of all requests."""
    return run.round_rates or (run.requests_per_second,)
