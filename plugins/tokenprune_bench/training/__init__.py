# SPDX-License-Identifier: Apache-2.0
"""The program that trains the embedded model: `python -m tokenprune_bench.training --seed 0 --out DIR`."""
