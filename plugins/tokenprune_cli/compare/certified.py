# SPDX-License-Identifier: Apache-2.0
"""The smallest budget of each method that is certified to agree with the unpruned model (`--certify`).

As in `tokenprune calibrate`: the unit is the picture, whose loss is the share of its questions on which the
answers differ. A method's budgets are tested by betting, the largest first, until one fails; methods divide
the level, under each protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenprune_calibrate.goal import Goal
from tokenprune_calibrate.losses import DISAGREEMENT, Answer, loss_of
from tokenprune_calibrate.statistics import betting, sequence
from tokenprune_evaluation.errors import BadInputError
from tokenprune_evaluation.question_set import QuestionSet
from tokenprune_evaluation.settings import UNPRUNED, key
from tokenprune_evaluation.tables import Table

from tokenprune_cli.compare.collected import SettingAnswers
from tokenprune_cli.compare.plan import Plan

DELTA = 0.05  # 1 - confidence


def check_certifiable(limit: float, plan: Plan, questions: QuestionSet) -> None:
    """Refuse a limit that no method can be certified for with so few pictures."""
    ladders = {(line.protocol, line.setting.method) for line in plan.lines if line.setting.method}
    n_methods, n_pictures = len(ladders), questions.n_images
    Goal(DISAGREEMENT, limit)  # checks the limit
    fewest = betting.fewest_samples(limit, sequence.share(DELTA, n_methods))
    if n_pictures < fewest:
        raise BadInputError(
            f"--certify {limit} with {n_methods} methods (under each protocol) takes at least {fewest} "
            f"pictures without a single disagreement, and there are {n_pictures}; name fewer methods, "
            "raise the limit, or ask about more pictures"
        )


def certified_budgets(
    lines: Sequence[Mapping[str, Any]],
    questions: QuestionSet,
    answers: Mapping[str, SettingAnswers],
    limit: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Return for each protocol and method the smallest certified budget (None: none), and its upper bound.

    Parameters
    ----------
    lines
        The lines of the record, which are named by `cell`.
    seed
        Of the order in which pictures are tested.
    """
    ladders: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["method"] is not None and line["refused"] is None:
            ladders.setdefault((line["protocol"], line["method"]), []).append(line)
    delta = sequence.share(DELTA, max(1, len(ladders)))
    entries = []
    for (protocol, method), rungs in ladders.items():
        rungs = sorted(rungs, key=lambda line: -line["keep"])
        losses = [picture_losses(questions, answers, line["cell"], seed) for line in rungs]
        result = sequence.certify(losses, limit, delta, betting.p_value, betting.upper_bound)
        last = result.n_certified - 1
        entries.append(
            {
                "protocol": protocol,
                "method": method,
                "keep": rungs[last]["keep"] if last >= 0 else None,
                "disagreement": round(float(losses[max(0, last)].mean()), 5),
                "upper_bound": round(result.upper_bounds[max(0, last)], 5),
                "cell": rungs[max(0, last)]["cell"],
            }
        )
    return entries


def picture_losses(
    questions: QuestionSet, answers: Mapping[str, SettingAnswers], cell: str, seed: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the share of each picture's questions that a setting answers differently, in a random order."""
    by_picture: dict[int, list[float]] = {}
    pairs = zip(questions.items, answers[key(UNPRUNED)].answers, answers[cell].answers, strict=True)
    for item, unpruned, pruned in pairs:
        loss = loss_of(DISAGREEMENT, item, Answer(unpruned), Answer(pruned))
        by_picture.setdefault(item.image, []).append(loss)
    means = np.array([np.mean(losses) for losses in by_picture.values()])
    return means[np.random.default_rng(seed).permutation(len(means))]


def certified_table(record: Mapping[str, Any], protocol: str) -> Table:
    """Return the table of a protocol: each method's smallest certified budget, with its accuracy there."""
    metric = record["metrics"][0]
    scores = {line["cell"]: line["scores"][metric]["value"] for line in record["lines"] if "scores" in line}
    entries = [entry for entry in record["certified"]["methods"] if entry["protocol"] == protocol]
    entries.sort(key=lambda entry: (entry["keep"] is None, entry["keep"]))
    rows = [
        [
            entry["method"],
            "none" if entry["keep"] is None else str(entry["keep"]),
            f"{100 * entry['disagreement']:.1f}",
            f"{100 * entry['upper_bound']:.1f}",
            f"{100 * scores[entry['cell']]:.1f}",
        ]
        for entry in entries
    ]
    title = (
        f"smallest budget certified to disagree at most {record['certified']['limit']:.0%} (95 % confidence)"
    )
    return Table(["method", "certified", "disagree %", "upper bound %", f"{metric} %"], rows, title=title)
