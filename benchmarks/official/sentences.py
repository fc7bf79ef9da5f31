# SPDX-License-Identifier: Apache-2.0
"""Describe the comparison with the official algorithms in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def official_lines(record: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each comparison of a record."""
    lines = []
    for comparison in record["official"]:
        if "same_picks" in comparison:
            picks = "the same picks" if comparison["same_picks"] else "OTHER PICKS"
            lines.append(
                f"{comparison['what']}: {comparison['ours_seconds']:.3g} s against "
                f"{comparison['official_seconds']:.3g} s of the official algorithm, "
                f"{comparison['times_faster']:.1f} times faster; the greedy loop alone "
                f"{comparison['loop_times_faster']:.0f} times; {picks}."
            )
        else:
            lines.append(
                f"{comparison['what']}: official algebra {comparison['official_seconds']:.3g} s, zoo "
                f"{comparison['zoo_seconds']:.3g} s ({comparison['zoo_over_its_products']:.2f} times its own "
                f"matrix products), zoo-exact {comparison['zoo_exact_seconds']:.3g} s, "
                f"{comparison['zoo_exact_times_faster']:.0f} times faster than the official algebra."
            )
    return lines
