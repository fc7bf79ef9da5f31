# SPDX-License-Identifier: Apache-2.0
"""Command line, demo, benchmarks and the embedded model of tokenprune."""
