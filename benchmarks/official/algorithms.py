# SPDX-License-Identifier: Apache-2.0
"""Reimplementations of the official algorithms, timed against ours: selection loop and sampled sensitivity.

They are faster than the originals: cosines by one matrix product instead of a broadcast to (N, N, D),
perturbed rows in blocks instead of all at once, everything in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenprune_cli.bench.clock import Clock
from torch import Tensor, nn

import tokenprune
from tokenprune.functional import Similarity, max_min_diversity, min_max, unit_rows
from tokenprune.max_min import pick


def official_picks(distance: Tensor, weights: Tensor, keep: int) -> Tensor:
    """Select by the official loop, in which each step gathers the distances (C, N) of all C chosen tokens.

    `distance` (N, N), `weights` (N,). Returns (keep,).
    """
    chosen = [int(weights.argmax())]
    while len(chosen) < keep:
        gain = distance[chosen].amin(0) * weights
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
    return torch.tensor(chosen, device=distance.device)


def official_sensitivity(projector: nn.Module, rows: Tensor, bank: Tensor, step: float = 0.01) -> Tensor:
    """Score by the official estimator: the whole projector on every row, perturbed along every direction.

    `rows` (N, D_v), `bank` (m, D_v) unit directions. Returns (N,).
    """
    total = torch.zeros(len(rows), device=rows.device)
    for nudges in torch.split(bank, 8):
        plus = (rows + step * nudges.unsqueeze(1)).flatten(0, 1)
        minus = (rows - step * nudges.unsqueeze(1)).flatten(0, 1)
        moved = (projector(plus) - projector(minus)).norm(dim=-1)
        total += moved.view(len(nudges), len(rows)).sum(0)
    return total / (2 * step * len(bank))


@torch.no_grad()
def compare_picks(device: torch.device, n: int = 2880, keep: int = 640, width: int = 4096) -> dict[str, Any]:
    """Compare the time to select `keep` of `n` random rows by both algorithms."""
    generator, clock = torch.Generator().manual_seed(0), Clock(device)
    features = torch.randn(n, width, generator=generator).to(device)
    weights = min_max(torch.rand(n, generator=generator).to(device))

    def official_whole() -> Tensor:
        unit = unit_rows(features)
        return official_picks((1 - unit @ unit.mT).clamp(min=0), weights, keep)

    similarity = Similarity(features.unsqueeze(0))
    assert similarity.matrix is not None
    distance, start = (1 - similarity.matrix[0]).clamp(min=0), weights.argmax().view(1, 1)
    ours = _seconds(clock, lambda: max_min_diversity(features, keep, weights))
    loop = _seconds(clock, lambda: pick(similarity, keep - 1, weights.unsqueeze(0), start, None))
    theirs = _seconds(clock, official_whole)
    their_loop = _seconds(clock, lambda: official_picks(distance, weights, keep))
    same = torch.equal(max_min_diversity(features, keep, weights), official_picks(distance, weights, keep))
    return {
        "what": f"picking {keep} of {n} tokens of width {width}",
        "same_picks": same,
        "ours_seconds": ours,
        "official_seconds": theirs,
        "times_faster": round(theirs / ours, 2),
        "ours_loop_seconds": loop,
        "official_loop_seconds": their_loop,
        "loop_times_faster": round(their_loop / loop, 2),
    }


@torch.no_grad()
def compare_scores(
    device: torch.device, n: int = 576, tower: int = 1024, width: int = 4096, directions: int = 64
) -> dict[str, Any]:
    """Compare the time to score `n` random rows by the official algorithm, by `zoo` and by `zoo-exact`.

    The lower bound of `zoo` is its matrix products alone: one (N, D_h) x (D_h, D) for each direction.
    """
    generator, clock = torch.Generator().manual_seed(0), Clock(device)
    last = nn.Linear(width, width)
    projector = nn.Sequential(nn.Linear(tower, width), nn.GELU(), last).to(device)
    rows = torch.randn(n, tower, generator=generator).to(device)
    bank = nn.functional.normalize(torch.randn(directions, tower, generator=generator), dim=-1).to(device)
    form = tokenprune.Projector.wrap(projector)
    tokens = tokenprune.VisualTokens(
        rows, {"pre_features": rows, "projector": form}, tokenprune.Layout((1, 1, n))
    )
    sampled = tokenprune.scorer("zoo", n_directions=directions)
    exact = tokenprune.scorer("zoo-exact")
    weight, hidden = last.weight, torch.randn(n, width, generator=generator).to(device)

    def products() -> None:
        for _ in range(directions):
            nn.functional.linear(hidden, weight)

    exact.score(tokens)  # computes what is cached of the weights
    seconds = {
        "zoo_exact_seconds": _seconds(clock, lambda: exact.score(tokens)),
        "zoo_seconds": _seconds(clock, lambda: sampled.score(tokens), 1),
        "zoo_products_seconds": _seconds(clock, products, 1),
        "official_seconds": _seconds(clock, lambda: official_sensitivity(projector, rows, bank), 1),
    }
    official = seconds["official_seconds"]
    return {
        "what": f"scoring {n} tokens, projector {tower}-{width}-{width}, {directions} directions",
        **seconds,
        "zoo_exact_times_faster": round(official / seconds["zoo_exact_seconds"], 2),
        "zoo_times_faster": round(official / seconds["zoo_seconds"], 2),
        "zoo_over_its_products": round(seconds["zoo_seconds"] / seconds["zoo_products_seconds"], 3),
    }


def _seconds(clock: Clock, run: Callable[[], Any], repeats: int = 3) -> float:
    """Return the fastest of several runs, after one warm-up run; no warm-up for a single run."""
    if repeats > 1:
        run()
    seconds = []
    for _ in range(repeats):
        clock.restart()
        clock.mark("start")
        run()
        clock.mark("end")
        seconds.append(clock.between("start", "end"))
    return float(f"{min(seconds):.4g}")
