# SPDX-License-Identifier: Apache-2.0
"""Run tests and measure speed on an NVIDIA GPU, within eight minutes: `benchmarks/gpu/run.sh --out DIR`."""
