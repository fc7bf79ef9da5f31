# SPDX-License-Identifier: Apache-2.0
"""The page of a calibration: the verdict, risk against cost, and requests that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenprune_evaluation.tables import templates

from .disagreements import Disagreement
from .plot import plot
from .record import CalibrationRecord
from .words import conclusion, meaning, table


def page(record: CalibrationRecord, shown: Sequence[Disagreement], example: str) -> str:
    """Return the page.

    Parameters
    ----------
    shown
        Requests on which the setting named `example` loses; empty if the journal is redacted.
    """
    template = templates(Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        record=record,
        conclusion=conclusion(record),
        meaning=meaning(record),
        plot=plot(record),
        table=table(record).html(),
        shown=shown,
        example=example,
    )
