# SPDX-License-Identifier: Apache-2.0
"""Define the studies: what each one varies, and the baseline it compares with."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import tokenprune
from benchmarks.studies.combinations import combinations
from benchmarks.studies.encoder import EncoderScorer, EncoderWatch
from benchmarks.studies.parts import HalfDifferences, Remembered, SumSelector
from benchmarks.studies.study import EIGHTH, QUARTER, SIXTEENTH, Pair, Plan, Study, Variant

PROJECTOR, ENCODER = "projector", "whole encoder"
FLOOR = 0.5  # supplement A: "a 0.5 threshold to filter out low-sensitivity tokens"
DIRECTIONS = (1, 4, 16, 64, 256)
STEPS = (0.001, 1.0, 10.0, 100.0)


def _variant(
    name: str, scorer: tokenprune.Scorer, selector: str | tokenprune.Selector = "diverse", **options: Any
) -> Variant:
    """Return `zoo-prune` with other parts, computing the scores of an image only once."""
    whole = dataclasses.replace(
        tokenprune.method("zoo-prune"), name=name, scorer=Remembered(scorer), selector=selector
    )
    return Variant(name, whole, options)


def _zoo(**options: Any) -> tokenprune.Scorer:
    return tokenprune.scorer("zoo", **options)


def _exact() -> tokenprune.Scorer:
    return tokenprune.scorer("zoo-exact")


def _encoder_scorers(watch: EncoderWatch) -> dict[str, tokenprune.Scorer]:
    """Return a scorer for each layer, and one for all layers up to the one whose output is projected."""
    layers = {f"layer {n}": EncoderScorer(watch, n, n) for n in range(1, len(watch.layers) + 1)}
    return {**layers, ENCODER: EncoderScorer(watch, 1, watch.feature)}


def layers(model: Any) -> Plan:
    """Supplement, table D: tokens chosen by a layer's sensitivity instead of the projector's."""
    watch = EncoderWatch(model)
    scorers = {PROJECTOR: _zoo(), **_encoder_scorers(watch)}
    variants = tuple(_variant(name, scorer) for name, scorer in scorers.items())
    return Plan(variants, PROJECTOR, (EIGHTH, SIXTEENTH), watch=watch)


def correlation(model: Any) -> Plan:
    """Supplement, A: rankings of the encoder's layers against the projector's."""
    watch = EncoderWatch(model)
    encoder = _encoder_scorers(watch)
    pairs = [Pair(name, PROJECTOR, floor) for floor in (None, FLOOR) for name in reversed(encoder)]
    return Plan(scorers={PROJECTOR: _zoo(), **encoder}, pairs=tuple(pairs), watch=watch)


def sampling(model: Any) -> Plan:
    """Number of directions and step size."""
    names = {f"m = {m}, h = 0.01": _zoo(n_directions=m) for m in DIRECTIONS}
    names |= {f"m = 64, h = {h:g}": _zoo(step_size=h) for h in STEPS}
    scorers = {"closed form": _exact(), **names}
    seeds = {f"m = {m}, another seed": _zoo(n_directions=m, seed=1) for m in DIRECTIONS}
    pairs = [Pair(name, "closed form") for name in names]
    pairs += [Pair(f"m = {m}, another seed", f"m = {m}, h = 0.01") for m in DIRECTIONS]
    return Plan(
        tuple(_variant(name, scorer) for name, scorer in scorers.items()),
        "closed form",
        (EIGHTH,),
        {**scorers, **seeds},
        pairs=tuple(pairs),
    )


def combination(model: Any) -> Plan:
    """Sensitivity times diversity, their sum, either alone, and random tokens."""
    variants = (
        _variant("product", _exact()),
        _variant("sum", _exact(), SumSelector()),
        _variant("sensitivity alone", _exact(), "topk"),
        _variant("diversity alone", tokenprune.scorer("uniform")),
        _variant("random", tokenprune.scorer("random"), "topk"),
    )
    return Plan(variants, "product", (QUARTER, EIGHTH, SIXTEENTH))


def normalise(model: Any) -> Plan:
    """Scores normalised by min-max, or divided by the maximum."""
    variants = [
        _variant(way, _exact(), tokenprune.selector("diverse", normalise=way)) for way in ("minmax", "max")
    ]
    variants.append(_variant("diversity alone", tokenprune.scorer("uniform")))
    return Plan(tuple(variants), "max", (QUARTER, EIGHTH, SIXTEENTH))


def positions(model: Any) -> Plan:
    """Kept tokens renumbered, or with their original positions."""
    rules = ("contiguous", "original")
    variants = [_variant(rule, _exact(), positions=rule) for rule in rules]
    return Plan(tuple(variants), rules[0], (QUARTER, EIGHTH, SIXTEENTH))


def place(model: Any) -> Plan:
    """FastV's tokens against random tokens, at the same layer and before the language model."""
    random, fastv = tokenprune.method("random"), tokenprune.method("fastv")
    assert fastv.schedule is not None
    (layer,) = fastv.schedule.boundaries(model.config.get_text_config().num_hidden_layers)
    inside = "random, before FastV's layer"
    variants = (
        Variant(inside, random, {"layer": layer}),
        Variant("random, before the language model", random),
        Variant("FastV", fastv),
    )
    return Plan(variants, inside, (QUARTER, EIGHTH, SIXTEENTH))


def precision(model: Any) -> Plan:
    """Half precision, of the model or of the differences."""
    if model.dtype != torch.float32:
        raise tokenprune.IncompatibleError(
            "this study compares half precision with float32; load the model in float32 (--dtype float32)"
        )
    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    base = "float32"
    rounded = {f"differences in {name}": HalfDifferences(dtype) for name, dtype in halves.items()}
    models = {f"model in {name}": _zoo() for name in halves} | {
        f"closed form, model in {name}": _exact() for name in halves
    }
    formats = {name: halves[name.rpartition(" ")[2]] for name in models}
    pairs = [Pair(name, base) for name in (*rounded, *models) if not name.startswith("closed")]
    pairs += [Pair(name, "closed form") for name in models if name.startswith("closed")]
    pairs.append(Pair("another seed", base))
    scorers = {base: _zoo(), "closed form": _exact(), "another seed": _zoo(seed=1), **rounded, **models}
    variants = [_variant(name, scorers[name]) for name in (base, *rounded)]
    return Plan(tuple(variants), base, (EIGHTH, SIXTEENTH), scorers, formats, tuple(pairs))


STUDIES = {
    study.name: study
    for study in (
        Study(
            "layers",
            "Is sensitivity better measured at a layer of the vision encoder than at the projector?",
            layers,
        ),
        Study(
            "correlation",
            "Do the encoder's layers rank tokens like the projector?",
            correlation,
        ),
        Study(
            "sampling",
            "How many random directions, and which step size, does the estimate need?",
            sampling,
        ),
        Study(
            "combination",
            "Is sensitivity times diversity better than their sum, or than either alone?",
            combination,
        ),
        Study(
            "normalise",
            "Should scores be scaled to [0, 1], or only divided by their maximum?",
            normalise,
        ),
        Study(
            "positions",
            "Should kept tokens be renumbered, or keep their positions?",
            positions,
        ),
        Study(
            "place",
            "Does it matter more which tokens are kept, or where the others are dropped?",
            place,
        ),
        Study(
            "precision",
            "How does the ranking change when the model, or the differences, are in half precision?",
            precision,
        ),
        Study(
            "combinations",
            "Does another combination of parts answer better with the same number of operations?",
            combinations,
        ),
    )
}
