# SPDX-License-Identifier: Apache-2.0
"""The program that trains the embedded model: `python -m benchmarks.training --seed 0 --out DIR`."""
