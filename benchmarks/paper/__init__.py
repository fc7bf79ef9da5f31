# SPDX-License-Identifier: Apache-2.0
"""Measure published tables with lmms-eval: `python -m benchmarks.paper`."""
