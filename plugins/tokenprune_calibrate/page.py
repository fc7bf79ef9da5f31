# SPDX-License-Identifier: Apache-2.0
"""The page of a calibration: the verdict, risk against cost, and requests that disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from .disagreements import Disagreement
from .plot import plot
from .record import CalibrationRecord
from .words import conclusion, meaning


def page(record: CalibrationRecord, shown: Sequence[Disagreement], example: str) -> str:
    """Return the page.

    Parameters
    ----------
    shown
        Requests on which the setting named `example` loses; empty if the journal is redacted.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("page.html.jinja")
    return template.render(
        record=record,
        conclusion=conclusion(record),
        meaning=meaning(record),
        plot=plot(record),
        shown=shown,
        example=example,
    )
