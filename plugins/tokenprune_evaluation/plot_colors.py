# SPDX-License-Identifier: Apache-2.0
"""Colours and markers of methods in plots; on white, every colour has a contrast of at least 3."""

COLORS = (
    "#4269d0", "#b98000", "#d6453d", "#2f9e8f", "#3c8f4a", "#d3609b", "#8a56c9", "#5f8fc7", "#8c5b2e",
    "#c2410c", "#0f766e", "#a21caf", "#65820f", "#334155", "#b45309", "#be123c",
)  # fmt: skip
MARKERS = "os^vDPX"  # 7 of them and 16 colours: 112 methods before a pair returns
GREYS = ("#3d3d3d", "#6e6e6e", "#949494")  # of baselines
BASELINE_MARKERS = "<>h"
