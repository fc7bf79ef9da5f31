# SPDX-License-Identifier: Apache-2.0
"""Combinations of parts against ZOO-Prune, at the same number of operations."""

from __future__ import annotations

import dataclasses
from typing import Any

import tokenprune
from benchmarks.studies.operations import equal_share
from benchmarks.studies.parts import Remembered
from benchmarks.studies.study import EIGHTH, QUARTER, SIXTEENTH, Plan, Variant

# Held-out scenes (their numbers in benchmarks/scenes/splits.py), fixed before the first run. A combination is
# chosen on the scenes of the first range, and its lead is measured on those of the second.
EXPLORATION = range(300_000, 300_080)
CONFIRMATION = range(400_000, 400_160)

BASE = "zoo-prune"
SHARES = (QUARTER, EIGHTH, SIXTEENTH)
TOWER_SHARE = 0.5  # of the patches leave a tower that is cut


def combinations(model: Any) -> Plan:
    """Other selectors for its scores, other scores for its selector, and cuts in the tower before it."""
    exact, diverse = tokenprune.scorer("zoo-exact"), tokenprune.selector("diverse", normalise="max")
    cls = tokenprune.scorer("attention")
    base = variant(BASE, exact, tokenprune.selector("diverse"))
    after = (
        variant("max", exact, diverse),
        variant("max, original positions", exact, diverse, positions="original"),
        variant("diversity, original positions", None, diverse, positions="original"),
        variant("hybrid", exact, tokenprune.selector("hybrid")),
        variant("mmr", exact, tokenprune.selector("mmr")),
        variant("dpp", exact, tokenprune.selector("dpp")),
        variant("coverage", exact, tokenprune.selector("coverage")),
        variant("logdet", None, tokenprune.selector("logdet")),
        variant("attention x diversity", cls, diverse),
        variant("attention x coverage", cls, tokenprune.selector("coverage")),
    )
    inside = (
        in_tower("tower, then max", after[0].method),
        in_tower("tower, then diversity", variant("diversity", None, diverse).method),
    )
    equal = tuple(
        dataclasses.replace(each, shares={share: equal_share(model, each, base, share) for share in SHARES})
        for each in inside
    )
    return Plan((base, *after, *equal), BASE, SHARES)


def variant(
    name: str, scorer: tokenprune.Scorer | None, selector: tokenprune.Selector, **options: Any
) -> Variant:
    """Return `zoo-prune` with other parts; without a scorer, with equal scores."""
    remembered = tokenprune.scorer("uniform") if scorer is None else Remembered(scorer)
    whole = dataclasses.replace(
        tokenprune.method("zoo-prune"), name=name, scorer=remembered, selector=selector
    )
    return Variant(name, whole, options)


def in_tower(name: str, then: tokenprune.Method) -> Variant:
    """Return a cut by diversity a third of the way into the tower, with a method for the rest."""
    cut = dataclasses.replace(tokenprune.method("tower-diverse"), name=name, then=then, at_least=TOWER_SHARE)
    return Variant(name, cut)
