# SPDX-License-Identifier: Apache-2.0
"""Score the same tokens of a model with several scorers, and compare their rankings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from tokenprune_evaluation.prompts import placed, tokenized
from tokenprune_evaluation.question_set import QuestionSet
from torch import Tensor, nn

import tokenprune
from benchmarks.studies.ranking import shared_share, spearman
from benchmarks.studies.study import EIGHTH, Pair, Plan
from tokenprune.functional import min_max

KEPT = EIGHTH  # share of the tokens kept by the compared selections
FEWEST = 3  # minimum number of tokens for a correlation


@dataclass(frozen=True)
class Probe(tokenprune.Scorer):
    """Runs several scorers on each image and stores their scores, and what ZOO-Prune would keep by them."""

    name: ClassVar[str] = "probe"
    scorers: Mapping[str, tokenprune.Scorer]
    scores: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)
    kept: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        """Signals of all scorers."""
        return frozenset().union(*(scorer.needs for scorer in self.scorers.values()))

    def check(self, model: nn.Module) -> None:
        """Check all scorers."""
        for scorer in self.scorers.values():
            scorer.check(model)

    def score(self, tokens: tokenprune.VisualTokens) -> None:
        """Store scores and kept slots; return None."""
        keep = tokenprune.Budget(keep_ratio=KEPT).rows(len(tokens))
        for name, scorer in self.scorers.items():
            scores = scorer.score(tokens)
            chosen = tokenprune.selector("diverse").select(tokens, scores, keep)
            assert scores is not None
            self.scores.setdefault(name, []).append(scores.cpu())
            self.kept.setdefault(name, []).append(chosen.indices.cpu())


def check_scorers(model: Any, plan: Plan) -> None:
    """Raise an error if the model does not provide the signals of the scorers."""
    if plan.scorers:
        _probing(model, Probe(plan.scorers)).remove()


def compared(
    model: Any, processor: Any, questions: QuestionSet, plan: Plan, done: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Compare each of the plan's pairs of scorers: rank correlation and common picks, over images."""
    formats = dict.fromkeys([None, *plan.formats.values()])
    scores: dict[str, list[Tensor]] = {}
    kept: dict[str, list[Tensor]] = {}
    numbers = list(dict.fromkeys(item.image for item in questions.items))
    texts = {item.image: item.question.text for item in reversed(questions.items)}
    total, i = len(formats) * len(numbers), 0
    for dtype in formats:
        scorers = {name: scorer for name, scorer in plan.scorers.items() if plan.formats.get(name) is dtype}
        probe, subject = (
            Probe(scorers, scores, kept),
            model if dtype is None else copy.deepcopy(model).to(dtype),
        )
        with _probing(subject, probe), plan.watch.listening() if plan.watch else nullcontext():
            for number in numbers:
                inputs = tokenized(processor, [questions.open_image(number)], [texts[number]])
                with torch.no_grad():
                    subject(**placed(subject, inputs))
                i += 1
                done(i, total)
    return [_entry(pair, scores, kept) for pair in plan.pairs]


def _probing(model: Any, probe: Probe) -> tokenprune.PruningHandle:
    method = tokenprune.Method("probe", scorer=probe, scope="tile")
    return tokenprune.apply(model, method=method, keep=1)


def _entry(
    pair: Pair, scores: Mapping[str, list[Tensor]], kept: Mapping[str, list[Tensor]]
) -> dict[str, Any]:
    correlations, sizes = [], []
    for a, b in zip(scores[pair.of], scores[pair.against], strict=True):
        counts = torch.ones_like(b, dtype=torch.bool) if pair.floor is None else min_max(b) >= pair.floor
        sizes.append(int(counts.sum()))
        if sizes[-1] >= FEWEST:
            correlations.append(spearman(a[counts], b[counts]))
    shares = [shared_share(a, b) for a, b in zip(kept[pair.of], kept[pair.against], strict=True)]
    return {
        "of": pair.of,
        "against": pair.against,
        "floor": pair.floor,
        "tokens": round(sum(sizes) / len(sizes), 1),
        "spearman": spread([value for value in correlations if value is not None]),
        "kept_in_common": spread(shares),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over images and the quartiles; None without values."""
    if not values:
        return {"mean": None, "low": None, "high": None, "pictures": 0}
    low, high = np.percentile(values, [25, 75])
    mean = float(np.mean(values))
    return {
        "mean": round(mean, 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "pictures": len(values),
    }
