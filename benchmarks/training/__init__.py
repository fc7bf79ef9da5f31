# SPDX-License-Identifier: Apache-2.0
"""Train the embedded model: `python -m benchmarks.training --seed 0 --out DIR`."""
