# SPDX-License-Identifier: Apache-2.0
"""The verdict in sentences."""

from __future__ import annotations

from tokenprune_evaluation.tables import Table

from .record import CalibrationRecord

COSTS = {"flops": "of the unpruned prefill's operations", "seconds": "of the unpruned prefill's time"}


def table(record: CalibrationRecord) -> Table:
    """Return the settings of each method, from careful to cheap."""
    rows: list[tuple[str, ...]] = []
    certified: dict[int, str] = {}
    for ladder in record.ladders:
        rows.append((ladder.title,))
        for rung in ladder.rungs:
            if rung.is_certified:
                certified[len(rows)] = "bold"
            rows.append(
                (
                    str(rung.keep),
                    f"{100 * rung.mean_loss:.2f}",
                    f"{100 * rung.upper_bound:.2f}",
                    "not tested" if rung.p_value is None else f"{rung.p_value:.2g}",
                    f"{100 * rung.cost:.0f}",
                    "yes" if rung.is_certified else "no",
                )
            )
    heads = ("tokens kept", f"{record.goal['loss']}, %", "upper bound, %", "p-value", "cost, %", "certified")
    return Table(heads, rows, title=f"{record.goal['loss']} with the unpruned model", styles=certified)


def conclusion(record: CalibrationRecord) -> str:
    """Say which setting is certified, or that none is, and with which bound."""
    goal = record.goal
    meant = f"{goal['loss']} of at most {goal['limit']:.2%} at {goal['confidence']:.0%} confidence"
    rung = record.chosen_rung()
    if rung is None or record.chosen is None:
        return (
            f"No setting is certified for a {meant}: the best upper bound is {record.best_upper_bound:.2%}. "
            "Raise the limit, add requests, or name settings that keep more tokens."
        )
    tokens = f"{rung.keep} tokens" if isinstance(rung.keep, int) else rung.keep
    return (
        f"{record.chosen['method']} with {tokens} is certified for a {meant}: {rung.mean_loss:.2%} on "
        f"{rung.n} {_units(goal['unit'])}, upper bound {rung.upper_bound:.2%}, at {rung.cost:.0%} "
        f"{COSTS[record.cost_unit]}."
    )


def meaning(record: CalibrationRecord) -> list[str]:
    """Say what the certificate means and what it does not."""
    goal = record.goal
    return [
        f"The probability that this procedure certifies a setting whose expected {goal['loss']} on requests "
        f"like these is above {goal['limit']:.2%} is at most {1 - goal['confidence']:.1%}, over the draw of "
        "the sample.",
        "It holds for requests that are drawn as these were. If the traffic changes, test the setting again "
        "with `tokenprune calibrate --verify`.",
        f"It holds for this model (weights {record.weights}), this preprocessing and these versions.",
        "The reference is the unpruned model, which may itself be wrong.",
    ]


def _units(unit: str) -> str:
    return "pictures" if unit == "picture" else "pictures, one question each"
