# SPDX-License-Identifier: Apache-2.0
"""The old name of the command line's package, which says where its parts are; removed in 0.3."""

raise ImportError(
    "tokenprune_bench was split in tokenprune 0.2: the embedded model and its scenes are in "
    "`tokenprune_embedded`, the command line and its parts are `tokenprune_cli` "
    "(`python -m tokenprune_cli`), and training, scenes, studies and towers are run in a checkout "
    "as `python -m benchmarks.NAME`",
    name=__name__,
)
