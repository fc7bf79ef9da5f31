# SPDX-License-Identifier: Apache-2.0
"""Tests and speed on an NVIDIA GPU, within eight minutes: `benchmarks/gpu/run.sh --out DIR`."""
